#include "data/labels.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <utility>

#include "core/error.h"
#include "core/files.h"
#include "data/csv.h"
#include "data/dataset.h"

namespace mmtune::data {

namespace {

std::optional<double> as_number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

}  // namespace

ClassList::ClassList(std::vector<std::string> names) : names_(std::move(names)) {
  for (std::size_t i = 0; i < names_.size(); ++i) {
    if (names_[i].empty()) throw UsageError({.what = "class " + std::to_string(i) + " has an empty name", .where = "classes"});
    if (!by_name_.emplace(names_[i], static_cast<std::int64_t>(i)).second) {
      throw UsageError({.what = "the class '" + printable(names_[i]) + "' is there twice", .where = "classes"});
    }
    has_numbers_ = has_numbers_ || as_number(names_[i]).has_value();
  }
}

std::optional<std::int64_t> ClassList::index(std::string_view label) const {
  if (const auto found = by_name_.find(std::string(label)); found != by_name_.end()) return found->second;
  if (label == "true") return index("1");
  if (label == "false") return index("0");
  // In a list of numbers, 2 is a name or nothing: taking it for a position would be right by accident only.
  if (has_numbers_) return std::nullopt;
  std::int64_t position = 0;
  const auto [end, error] = std::from_chars(label.data(), label.data() + label.size(), position);
  if (error != std::errc() || end != label.data() + label.size()) return std::nullopt;
  if (position < 0 || position >= static_cast<std::int64_t>(names_.size())) return std::nullopt;
  return position;
}

std::string ClassList::describe() const {
  constexpr std::size_t shown = 8;
  std::string text = "one of " + std::to_string(names_.size()) + " classes (";
  for (std::size_t i = 0; i < std::min(shown, names_.size()); ++i) text += (i == 0 ? "" : ", ") + printable(names_[i], 30);
  return text + (names_.size() > shown ? ", …)" : ")");
}

std::vector<std::string> sorted_labels(std::vector<std::string> labels) {
  std::sort(labels.begin(), labels.end());
  labels.erase(std::unique(labels.begin(), labels.end()), labels.end());
  if (std::all_of(labels.begin(), labels.end(), [](const std::string& label) { return as_number(label).has_value(); })) {
    std::stable_sort(labels.begin(), labels.end(),
                     [](const std::string& a, const std::string& b) { return *as_number(a) < *as_number(b); });
  }
  return labels;
}

std::vector<std::string> read_class_names(const std::filesystem::path& path) {
  const std::string text = read_file(path, std::size_t{64} << 20);
  std::vector<std::string> names;
  std::unordered_map<std::string, std::size_t> line_of;
  std::string_view rest = text;
  if (rest.starts_with("\xef\xbb\xbf")) rest.remove_prefix(3);
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view name = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    name = name.substr(0, name.find_last_not_of(" \t\r") + 1);
    const std::string where = path.string() + ":" + std::to_string(names.size() + 1);
    if (name.empty()) {
      if (rest.find_first_not_of(" \t\r\n") == std::string_view::npos) break;
      throw Error({.what = "an empty line among the class names", .where = where});
    }
    if (!is_utf8(name)) throw Error({.what = "the class name is not valid UTF-8", .where = where});
    const auto [earlier, added] = line_of.emplace(std::string(name), names.size() + 1);
    if (!added) {
      throw Error({.what = "the class '" + printable(name) + "' is there twice",
                   .where = where,
                   .hint = "first in line " + std::to_string(earlier->second)});
    }
    names.emplace_back(name);
  }
  if (names.empty()) throw Error({.what = "has no class names", .where = path.string(), .expected = "one name a line"});
  return names;
}

}  // namespace mmtune::data
