#pragma once
// Labels as files write them (names, numbers, booleans) turned into indices into a list of classes.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace mmtune::data {

/// A given list of classes. A label's text is looked up as a name first; in a list without numbers an integer counts as an index from 0.
class ClassList {
 public:
  /// Throws UsageError: empty or repeated names.
  explicit ClassList(std::vector<std::string> names);

  /// Nothing for a label outside the list. "true" and "false" that are no names are tried as 1 and 0.
  std::optional<std::int64_t> index(std::string_view label) const;
  const std::vector<std::string>& names() const { return names_; }
  /// "one of 13 classes (black, blue, …)", for messages.
  std::string describe() const;

 private:
  std::vector<std::string> names_;
  std::unordered_map<std::string, std::int64_t> by_name_;
  bool has_numbers_ = false;
};

/// The distinct labels in order: numerically when all are numbers, otherwise by bytes.
std::vector<std::string> sorted_labels(std::vector<std::string> labels);

}  // namespace mmtune::data
