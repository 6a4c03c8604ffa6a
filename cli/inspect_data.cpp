// The part of `mmtune inspect` that looks at data: rows, fields, splits, modalities, labels and lengths of texts.

#include <algorithm>
#include <map>
#include <memory>

#include "core/error.h"
#include "data/row_parser.h"
#include "data/rows.h"
#include "inspect_files.h"
#include "report/table.h"

namespace mmtune::cli {

namespace {

using report::Align;
using report::Table;

std::int64_t characters(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

/// Length of texts, in characters.
class Lengths {
 public:
  void add(const std::string& text) { values_.push_back(characters(text)); }
  bool empty() const { return values_.empty(); }
  Json json() {
    std::sort(values_.begin(), values_.end());
    return {{"min", at(0)}, {"p50", at(0.5)}, {"p90", at(0.9)}, {"p99", at(0.99)}, {"max", at(1)}};
  }

 private:
  /// The value below or at which a share q of the texts lie.
  std::int64_t at(double q) const {
    const double rank = q * static_cast<double>(values_.size() - 1) + 0.5;
    return values_[std::min(static_cast<std::size_t>(rank), values_.size() - 1)];
  }
  std::vector<std::int64_t> values_;
};

struct Counter {
  std::map<std::string, std::int64_t> counts;

  void add(const std::string& name) { ++counts[name]; }
  /// Largest first, equals by name.
  std::vector<std::pair<std::string, std::int64_t>> ranked() const {
    std::vector<std::pair<std::string, std::int64_t>> all(counts.begin(), counts.end());
    std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
    return all;
  }
  std::string line(std::size_t most = 12) const {
    std::string out;
    const auto all = ranked();
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (i == most) return out + ", …";
      out += (i == 0 ? "" : ", ") + all[i].first + " " + std::to_string(all[i].second);
    }
    return out;
  }
};

struct Survey {
  std::int64_t rows = 0;
  std::int64_t unusable = 0;
  std::string first_problem;
  Counter fields, splits, modalities, labels;
  std::int64_t unlabelled = 0;
  bool multi_label = false;
  std::map<std::string, std::string> class_names;  ///< of labels that are numbers, where rows have a class_name beside
  Lengths text, text_pair;
};

std::string modalities_of(const data::Example& example) {
  std::string out;
  const auto add = [&](bool there, const char* name) {
    if (there) out += (out.empty() ? "" : " + ") + std::string(name);
  };
  add(example.text.has_value(), "text");
  add(example.text_pair.has_value(), "text_pair");
  add(example.image.has_value(), "image");
  add(example.image_pair.has_value(), "image_pair");
  add(example.audio.has_value(), "audio");
  add(example.video.has_value(), "video");
  return out;
}

void look_at(const data::Row& row, data::RowParser& parser, Survey& survey) {
  ++survey.rows;
  for (const auto& [name, value] : row.fields.items()) {
    if (!value.is_null()) survey.fields.add(name);
  }
  if (const auto split = row.fields.find("split"); split != row.fields.end() && split->is_string()) {
    survey.splits.add(split->get<std::string>());
  }
  if (const auto labels = row.fields.find("labels"); labels != row.fields.end() && labels->is_array()) survey.multi_label = true;
  try {
    const data::ParsedRow parsed = parser.parse(row, nullptr, {});
    survey.modalities.add(modalities_of(parsed.example));
    if (parsed.example.text) survey.text.add(*parsed.example.text);
    if (parsed.example.text_pair) survey.text_pair.add(*parsed.example.text_pair);
    if (!parsed.labels) ++survey.unlabelled;
    const std::vector<std::string> labels = parsed.labels.value_or(std::vector<std::string>());
    for (const std::string& label : labels) survey.labels.add(label);
    const auto name = row.fields.find("class_name");
    if (labels.size() == 1 && name != row.fields.end() && name->is_string()) survey.class_names.emplace(labels.front(), *name);
  } catch (const Error& error) {
    if (survey.unusable++ == 0) survey.first_problem = error.what();
  }
}

Json counts_json(const Counter& counter) {
  Json object = Json::object();
  for (const auto& [name, count] : counter.counts) object[name] = count;
  return object;
}

}  // namespace

Description describe_data(const std::filesystem::path& path) {
  data::ReadOptions options;
  options.path = path.string();
  // Whether the labels are one or several is not known beforehand: the first row tells.
  Survey survey;
  std::unique_ptr<data::RowParser> parser;
  data::read_rows(path, true, [&](data::Row&& row) {
    if (!parser) {
      const auto labels = row.fields.find("labels");
      options.multi_label = labels != row.fields.end() && labels->is_array();
      parser = std::make_unique<data::RowParser>(options, nullptr);
    }
    look_at(row, *parser, survey);
  });

  Description result;
  result.json = {{"kind", "data"},
                 {"path", path.string()},
                 {"rows", survey.rows},
                 {"fields", counts_json(survey.fields)},
                 {"splits", counts_json(survey.splits)},
                 {"modalities", counts_json(survey.modalities)},
                 {"labels", counts_json(survey.labels)},
                 {"multi_label", survey.multi_label},
                 {"unlabelled", survey.unlabelled},
                 {"unusable", survey.unusable}};
  Facts facts;
  facts.add("data", path.string());
  facts.add("rows", std::to_string(survey.rows));
  facts.add("fields", survey.fields.line(30));
  facts.add("splits", survey.splits.line());
  facts.add("modalities", survey.modalities.line());
  if (survey.unusable > 0) {
    facts.add("not usable as they are", std::to_string(survey.unusable) + " rows; the first: " + survey.first_problem);
    result.json["first_problem"] = survey.first_problem;
  }
  if (!survey.labels.counts.empty()) {
    facts.add("classes", std::to_string(survey.labels.counts.size()) + (survey.multi_label ? " (several an example)" : ""));
  }
  if (survey.unlabelled > 0) facts.add("unlabelled", std::to_string(survey.unlabelled));
  result.text = facts.text();

  Table lengths({{"characters in"},
                 {"min", Align::right},
                 {"median", Align::right, "p50"},
                 {"90 %", Align::right, "p90"},
                 {"99 %", Align::right, "p99"},
                 {"max", Align::right}});
  const auto add_lengths = [&](const char* field, Lengths& values) {
    if (values.empty()) return;
    const Json json = values.json();
    const auto number = [&](const char* key) { return json[key].get<std::int64_t>(); };
    lengths.add({field, number("min"), number("p50"), number("p90"), number("p99"), number("max")});
    result.json["text_lengths"][field] = json;
  };
  add_lengths("text", survey.text);
  add_lengths("text_pair", survey.text_pair);
  if (!lengths.empty()) result.text += "\n" + lengths.text();

  if (!survey.labels.counts.empty()) {
    constexpr std::size_t most = 20;
    const auto ranked = survey.labels.ranked();
    Table labels({{"label"}, {"examples", Align::right}, {"share", Align::right}});
    for (std::size_t i = 0; i < std::min(most, ranked.size()); ++i) {
      const double share = static_cast<double>(ranked[i].second) / static_cast<double>(survey.rows);
      const auto name = survey.class_names.find(ranked[i].first);
      const bool named = name != survey.class_names.end() && name->second != ranked[i].first;
      labels.add({ranked[i].first + (named ? "  " + name->second : ""), ranked[i].second, report::fixed(100 * share, 1) + " %"});
    }
    result.text += "\n" + labels.text(40);
    if (ranked.size() > most) {
      result.text += "… and " + std::to_string(ranked.size() - most) + " more, the rarest with " + std::to_string(ranked.back().second) +
                     (ranked.back().second == 1 ? " example\n" : " examples\n");
    }
  }
  return result;
}

}  // namespace mmtune::cli
