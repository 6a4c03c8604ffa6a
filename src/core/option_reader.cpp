#include "core/option_reader.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/nearest.h"
#include "core/option_docs.h"

namespace mmtune {

namespace {

/// The pieces of a list typed as an argument without TOML's quotes: `query,value` or `[query, value]`.
std::vector<TomlValue> split_typed(const TomlValue& value) {
  std::string_view text = *value.typed;
  if (text.size() >= 2 && text.front() == '[' && text.back() == ']') text = text.substr(1, text.size() - 2);
  std::vector<TomlValue> items;
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    std::string_view piece = text.substr(0, comma);
    while (!piece.empty() && piece.front() == ' ') piece.remove_prefix(1);
    while (!piece.empty() && piece.back() == ' ') piece.remove_suffix(1);
    TomlValue item;
    item.kind = TomlValue::Kind::string;
    item.text = std::string(piece);
    item.typed = item.text;
    item.at = value.at;
    items.push_back(std::move(item));
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return items;
}

template <class Number>
std::optional<Number> whole_number(const std::optional<std::string>& typed) {
  if (!typed) return std::nullopt;
  Number number{};
  const char* end = typed->data() + typed->size();
  const auto result = std::from_chars(typed->data(), end, number);
  if (result.ec != std::errc{} || result.ptr != end) return std::nullopt;
  return number;
}

bool in_bounds(double number, const FieldSpec& spec) {
  return std::isfinite(number) && (!spec.min || number >= *spec.min) && (!spec.max || number <= *spec.max) &&
         (!spec.above || number > *spec.above) && (!spec.below || number < *spec.below);
}

// Each read_value() returns false when `value` is not what the field accepts; the caller words the error.
bool read_value(const TomlValue& value, bool& out, const FieldSpec&) {
  if (value.kind != TomlValue::Kind::boolean) return false;
  out = value.boolean;
  return true;
}

bool read_value(const TomlValue& value, std::int64_t& out, const FieldSpec& spec) {
  std::int64_t number = 0;
  if (value.kind == TomlValue::Kind::integer) {
    number = value.integer;
  } else if (const auto typed = whole_number<std::int64_t>(value.typed)) {
    number = *typed;
  } else {
    return false;
  }
  if (!in_bounds(static_cast<double>(number), spec)) return false;
  out = number;
  return true;
}

bool read_value(const TomlValue& value, double& out, const FieldSpec& spec) {
  double number = 0;
  if (value.kind == TomlValue::Kind::real) {
    number = value.real;
  } else if (value.kind == TomlValue::Kind::integer) {
    number = static_cast<double>(value.integer);
  } else if (const auto typed = whole_number<double>(value.typed)) {
    number = *typed;
  } else {
    return false;
  }
  if (!in_bounds(number, spec)) return false;
  out = number;
  return true;
}

bool read_value(const TomlValue& value, std::string& out, const FieldSpec& spec) {
  std::string text;
  if (value.kind == TomlValue::Kind::string) {
    text = value.text;
  } else if (value.typed) {
    text = *value.typed;  // an argument like data.where.split=1 where a string is wanted
  } else {
    return false;
  }
  if (!spec.choices.empty() && std::find(spec.choices.begin(), spec.choices.end(), text) == spec.choices.end()) return false;
  if (spec.required && text.empty()) return false;
  out = std::move(text);
  return true;
}

template <class T>
bool read_value(const TomlValue& value, std::optional<T>& out, const FieldSpec& spec) {
  T inner{};
  if (!read_value(value, inner, spec)) return false;
  out = std::move(inner);
  return true;
}

}  // namespace

OptionReader::OptionReader(const TomlValue& table) : OptionReader(table, "", std::make_shared<std::vector<Problem>>()) {}

OptionReader::OptionReader(const TomlValue& table, std::string path, std::shared_ptr<std::vector<Problem>> problems)
    : table_(table), path_(std::move(path)), problems_(std::move(problems)) {
  MMTUNE_ASSERT(table.kind == TomlValue::Kind::table);
}

std::string OptionReader::path_of(std::string_view key) const {
  return path_ + toml_key(key);
}

void OptionReader::report(Rank rank, const TomlPosition& at, ErrorParts parts) {
  parts.where = at.display();
  problems_->push_back({rank, at, std::move(parts)});
}

void OptionReader::wrong_type(const std::string& path, const TomlValue& value, const std::string& expected) {
  std::string got = value.display();
  if (value.typed && value.kind != TomlValue::Kind::string) got = printable(*value.typed, 60);
  report(Rank::wrong, value.at, {.what = path, .expected = expected, .got = got});
}

const TomlValue* OptionReader::take(std::string_view key, const std::string& wanted, const FieldSpec& spec) {
  known_.emplace_back(key);
  const TomlValue* value = table_.find(key);
  if (value == nullptr && spec.required) {
    report(Rank::missing, table_.at,
           {.what = "missing key '" + path_of(key) + "'", .expected = wanted + (spec.help.empty() ? "" : ": " + spec.help)});
  }
  return value;
}

void OptionReader::visit_field(std::string_view key, FieldRef field, const FieldSpec& spec) {
  const std::string wanted = accepted(field, spec);
  const TomlValue* value = take(key, wanted, spec);
  if (value == nullptr) return;
  const auto read_list = [&]<class T>(std::vector<T>& out) {
    std::vector<TomlValue> typed;
    if (value->kind != TomlValue::Kind::array) {
      // A single value stands for a list of one only where it was typed as an argument, where brackets and quotes are a nuisance.
      if (!value->typed) return wrong_type(path_of(key), *value, wanted);
      typed = split_typed(*value);
    }
    const std::vector<TomlValue>& items = value->kind == TomlValue::Kind::array ? value->items : typed;
    if (items.size() < spec.min_items) return wrong_type(path_of(key), *value, wanted);
    std::vector<T> result;
    for (std::size_t i = 0; i < items.size(); ++i) {
      T element{};
      if (!read_value(items[i], element, spec))
        return wrong_type(path_of(key) + "[" + std::to_string(i) + "]", items[i], accepted(&element, spec));
      result.push_back(std::move(element));
    }
    out = std::move(result);
  };
  const auto read_map = [&]<class T>(std::map<std::string, T>& out) {
    if (value->kind != TomlValue::Kind::table) return wrong_type(path_of(key), *value, wanted);
    std::map<std::string, T> result;
    for (const TomlMember& member : value->members) {
      if (!read_value(member.value, result[member.key], spec)) {
        return wrong_type(path_of(key) + "." + toml_key(member.key), member.value, accepted(&result[member.key], spec));
      }
    }
    out = std::move(result);
  };
  const auto read_single = [&](auto& out) {
    if (read_value(*value, out, spec)) return;
    const bool word = value->kind == TomlValue::Kind::string;
    const auto near = word ? nearest(value->text, spec.choices) : std::nullopt;
    wrong_type(path_of(key), *value, wanted);
    if (near) problems_->back().parts.hint = "did you mean \"" + *near + "\"?";
  };
  std::visit(
      [&]<class T>(T* out) {
        if constexpr (std::is_same_v<T, std::map<std::string, std::string>> || std::is_same_v<T, std::map<std::string, double>>) {
          read_map(*out);
        } else if constexpr (!std::is_same_v<T, std::string> && requires { out->emplace_back(); }) {
          read_list(*out);
        } else {
          read_single(*out);
        }
      },
      field);
}

bool OptionReader::read_name(std::string_view key, std::string& name, const std::vector<std::string>& names, const FieldSpec& spec) {
  FieldSpec with_names = spec;
  with_names.choices = names;
  const std::size_t before = problems_->size();
  std::string result = name;
  visit_field(key, FieldRef(&result), with_names);
  if (problems_->size() != before) return false;
  name = std::move(result);
  return true;
}

void OptionReader::visit_choice(std::string_view key, std::string& name, const std::vector<std::pair<std::string, std::string>>& all,
                                const FieldSpec& spec) {
  std::vector<std::string> names;
  for (const auto& [candidate, help] : all) names.push_back(candidate);
  read_name(key, name, names, spec);
}

void OptionReader::visit_variants(std::string_view key, std::string& name, const std::vector<Variant>& all, const FieldSpec& spec) {
  std::vector<std::string> names;
  for (const Variant& variant : all) names.push_back(variant.name);
  if (!read_name(key, name, names, spec)) {
    // Which keys belong here is unknown now; accept all of this table so that the wrong name alone is reported.
    for (const TomlMember& member : table_.members) known_.push_back(member.key);
    return;
  }
  Unchosen unchosen{std::string(key), name, {}};
  for (const Variant& variant : all) {
    if (variant.name == name) {
      variant.declare(*this);
    } else {
      unchosen.variants.push_back(variant);
    }
  }
  unchosen_.push_back(std::move(unchosen));
}

void OptionReader::visit_table(std::string_view key, const TableRef& table, const TableSpec& spec) {
  const TomlValue* value = take(key, "a table", {.help = spec.help, .required = spec.required});
  const bool exists = table.present();
  if (value == nullptr) {
    if (!exists || spec.required) return;
    // The table's own required keys are missing too, and its conditions hold for the defaults as well.
    TomlValue empty;
    empty.at = table_.at;
    OptionReader inner(empty, path_of(key) + ".", problems_);
    table.declare(inner);
    return;
  }
  if (value->kind != TomlValue::Kind::table) return wrong_type(path_of(key), *value, "a table");
  if (!exists) table.create();
  OptionReader inner(*value, path_of(key) + ".", problems_);
  table.declare(inner);
  inner.report_unknown_keys();
}

void OptionReader::visit_tables(std::string_view key, const TableListRef& list, const TableSpec& spec) {
  const std::string wanted = "a table [" + path_of(key) + "] or several [[" + path_of(key) + "]]";
  const TomlValue* value = take(key, wanted, {.help = spec.help, .required = spec.required});
  if (value == nullptr) return;
  std::vector<const TomlValue*> tables;
  if (value->kind == TomlValue::Kind::table) {
    tables.push_back(value);
  } else if (value->kind == TomlValue::Kind::array) {
    for (const TomlValue& item : value->items) {
      if (item.kind != TomlValue::Kind::table) return wrong_type(path_of(key), item, wanted);
      tables.push_back(&item);
    }
  } else {
    return wrong_type(path_of(key), *value, wanted);
  }
  list.resize(0);
  list.resize(tables.size());
  for (std::size_t i = 0; i < tables.size(); ++i) {
    const std::string index = value->kind == TomlValue::Kind::array ? "." + std::to_string(i) : "";
    OptionReader inner(*tables[i], path_of(key) + index + ".", problems_);
    list.declare(i, inner);
    inner.report_unknown_keys();
  }
}

void OptionReader::require(std::string_view key, bool holds, const std::string& expected, const std::string& hint) {
  if (holds) return;
  const TomlValue* value = table_.find(key);
  report(Rank::condition, value != nullptr ? value->at : table_.at,
         {.what = path_of(key), .expected = expected, .got = value != nullptr ? value->display() : std::string(), .hint = hint});
}

void OptionReader::report_unknown_keys() {
  for (const TomlMember& member : table_.members) {
    if (std::find(known_.begin(), known_.end(), member.key) != known_.end()) continue;
    ErrorParts parts{.what = "unknown key '" + printable(path_of(member.key)) + "'"};
    for (const Unchosen& group : unchosen_) {
      for (const Variant& variant : group.variants) {
        const std::vector<std::string> keys = top_level_keys(variant.declare);
        if (parts.hint.empty() && std::find(keys.begin(), keys.end(), member.key) != keys.end()) {
          parts.hint = "it is a key of " + group.key + " = \"" + variant.name + "\", not of \"" + group.chosen + "\"";
        }
      }
    }
    if (parts.hint.empty()) {
      if (const auto near = nearest(member.key, known_)) {
        parts.hint = "did you mean '" + path_of(*near) + "'?";
      } else {
        std::string all;
        for (const std::string& key : known_) all += (all.empty() ? "" : ", ") + key;
        parts.hint = "known here: " + all;
      }
    }
    report(Rank::wrong, member.at, std::move(parts));
  }
}

void OptionReader::finish() {
  report_unknown_keys();
  if (problems_->empty()) return;
  const auto order = [](const Problem& a, const Problem& b) {
    if (a.rank != b.rank) return a.rank < b.rank;
    return std::pair(a.at.line, a.at.column) < std::pair(b.at.line, b.at.column);
  };
  ErrorParts first = std::min_element(problems_->begin(), problems_->end(), order)->parts;
  if (problems_->size() > 1) {
    const std::size_t more = problems_->size() - 1;
    first.hint += (first.hint.empty() ? "and " : "; and ") + std::to_string(more) + (more == 1 ? " more mistake" : " more mistakes");
  }
  throw UsageError(std::move(first));
}

}  // namespace mmtune
