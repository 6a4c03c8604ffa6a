#include "data/dataset.h"

#include <algorithm>
#include <memory>
#include <unordered_set>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "data/filter.h"
#include "data/join.h"
#include "data/labels.h"
#include "data/random.h"
#include "data/row_parser.h"

namespace mmtune::data {

namespace {

/// One reading of one file.
class Reading {
 public:
  explicit Reading(const ReadOptions& options) : options_(options), where_(options.where), parser_(options, &media_) {
    if (options.shots < 0 || options.limit < 0) {
      throw UsageError({.what = "must not be negative", .where = options.shots < 0 ? "shots" : "limit"});
    }
    if (options.shots > 0 && options.multi_label) {
      throw UsageError({.what = "few-shot subsets need one label an example", .where = "shots", .got = "multi_label = true"});
    }
    if (!options.classes.empty()) classes_ = std::make_unique<const ClassList>(options.classes);
    if (!options.join_path.empty()) join_ = std::make_unique<const JoinTable>(options);
  }

  Dataset run() {
    read_rows(options_.path, options_.quotes, [&](Row&& row) { take(row); });
    if (rows_.empty()) empty_split();
    if (dataset_.skipped == 0) parser_.check_columns_seen();
    index_labels();
    if (options_.shots > 0) keep_shots();
    if (options_.limit > 0 && rows_.size() > static_cast<std::size_t>(options_.limit))
      rows_.resize(static_cast<std::size_t>(options_.limit));
    dataset_.source = options_.path;
    dataset_.multi_label = options_.multi_label;
    dataset_.fingerprint = fingerprint();
    dataset_.examples.reserve(rows_.size());
    for (ParsedRow& row : rows_) dataset_.examples.push_back(std::move(row.example));
    if (options_.corruption) corrupt();
    return std::move(dataset_);
  }

 private:
  void take(const Row& given) {
    std::optional<Row> numbered;
    if (options_.where.contains("row_number") && !given.fields.contains("row_number")) {
      numbered = given;
      numbered->fields["row_number"] = seen_;
    }
    const Row& row = numbered ? *numbered : given;
    ++seen_;
    if (!where_.passes(row.fields, join_ != nullptr)) return;
    try {
      const Json* joined = join_ ? &join_->partner(row) : nullptr;
      if (joined != nullptr && !where_.passes(row.fields, *joined)) return;
      ParsedRow parsed = parser_.parse(row, joined, join_ ? join_->folder() : std::filesystem::path());
      if (classes_ && parsed.labels) resolve(parsed, *classes_, row.where);
      rows_.push_back(std::move(parsed));
    } catch (const UsageError&) {
      throw;
    } catch (const Error& error) {
      if (!options_.skip_bad) throw;
      if (dataset_.skipped++ == 0) dataset_.first_skipped = error.what();
    }
  }

  void corrupt() {
    for (Example& example : dataset_.examples) {
      if (example.image) example.image = corrupted(std::move(*example.image), *options_.corruption, example.id);
      if (example.image_pair) {
        example.image_pair = corrupted(std::move(*example.image_pair), *options_.corruption, example.id + " (second picture)");
      }
    }
  }

  static void resolve(ParsedRow& row, const ClassList& classes, const std::string& where) {
    auto& indices = row.example.labels;
    for (const std::string& label : *row.labels) {
      const auto index = classes.index(label);
      if (!index)
        throw Error({.what = "the label is not in the list",
                     .where = where,
                     .expected = classes.describe(),
                     .got = "'" + printable(label, 60) + "'"});
      indices.push_back(*index);
    }
    std::sort(indices.begin(), indices.end());
    // 1 and "positive" may be two spellings of one class.
    indices.erase(std::unique(indices.begin(), indices.end()), indices.end());
  }

  void index_labels() {
    if (classes_) {
      dataset_.classes = classes_->names();
      return;
    }
    std::unordered_set<std::string> found;
    for (const ParsedRow& row : rows_) {
      if (row.labels) found.insert(row.labels->begin(), row.labels->end());
    }
    const ClassList classes(sorted_labels({found.begin(), found.end()}));
    for (ParsedRow& row : rows_) {
      if (row.labels) resolve(row, classes, row.example.id);
    }
    dataset_.classes = classes.names();
  }

  void keep_shots() {
    std::vector<std::vector<std::int64_t>> of_class(dataset_.classes.size());
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      of_class[static_cast<std::size_t>(rows_[i].example.labels.front())].push_back(static_cast<std::int64_t>(i));
    }
    std::vector<std::int64_t> kept;
    for (std::size_t c = 0; c < of_class.size(); ++c) {
      std::vector<std::int64_t>& members = of_class[c];
      if (static_cast<std::int64_t>(members.size()) < options_.shots) {
        throw Error({.what = "too few examples of the class '" + printable(dataset_.classes[c]) + "' for the few-shot subset",
                     .where = options_.path,
                     .expected = std::to_string(options_.shots),
                     .got = std::to_string(members.size())});
      }
      Random random(mix_seed(options_.shot_seed, c));
      shuffle(members, random);
      kept.insert(kept.end(), members.begin(), members.begin() + options_.shots);
    }
    std::sort(kept.begin(), kept.end());
    std::vector<ParsedRow> subset;
    subset.reserve(kept.size());
    for (const std::int64_t i : kept) subset.push_back(std::move(rows_[static_cast<std::size_t>(i)]));
    rows_ = std::move(subset);
  }

  [[noreturn]] void empty_split() const {
    std::string why = "the file has no rows";
    if (dataset_.skipped > 0) {
      why = "all " + std::to_string(dataset_.skipped) + " rows were bad, the first: " + dataset_.first_skipped;
    } else if (seen_ > 0) {
      why = "none of " + std::to_string(seen_) + " rows has " + where_.describe();
    }
    throw Error({.what = "the split is empty: " + why, .where = options_.path});
  }

  std::string fingerprint() const {
    Fingerprint sum;
    if (options_.corruption) sum.add_field("corrupted " + vision::describe(*options_.corruption));
    sum.add_field("mmtune data 1").add_field(static_cast<std::int64_t>(dataset_.classes.size()));
    for (const std::string& name : dataset_.classes) sum.add_field(name);
    const auto add_text = [&sum](const std::optional<std::string>& text) {
      sum.add_field(static_cast<std::int64_t>(text.has_value()));
      if (text) sum.add_field(*text);
    };
    for (const ParsedRow& row : rows_) {
      sum.add_field(row.example.id);
      add_text(row.example.text);
      add_text(row.example.text_pair);
      sum.add_field(row.media_key);
      sum.add_field(static_cast<std::int64_t>(row.example.labels.size()));
      for (const std::int64_t label : row.example.labels) sum.add_field(label);
      sum.add_field(static_cast<std::int64_t>(row.example.answers.size()));
      for (const std::string& answer : row.example.answers) sum.add_field(answer);
    }
    return sum.hex();
  }

  const ReadOptions& options_;
  Filter where_;
  MediaIndex media_;
  RowParser parser_;
  std::unique_ptr<const ClassList> classes_;
  std::unique_ptr<const JoinTable> join_;
  std::vector<ParsedRow> rows_;
  std::int64_t seen_ = 0;
  Dataset dataset_;
};

}  // namespace

Dataset read_dataset(const ReadOptions& options) {
  return Reading(options).run();
}

}  // namespace mmtune::data
