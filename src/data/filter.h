#pragma once
// Which rows of a file belong to a split: conditions on fields, compared as text or as numbers.

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace mmtune::data {

/// The text of a JSON string, integer or boolean ("true", "false"); integral floats lose their ".0". Nothing for null, lists, objects
/// and other numbers.
std::optional<std::string> scalar_text(const Json& value);

class Filter {
 public:
  /// field → condition, as ReadOptions::where. Throws UsageError: a comparison with something that is no number.
  explicit Filter(const std::map<std::string, std::string>& conditions);

  /// Whether the row passes the conditions on fields that `row` has. Fields it lacks fail, or with `lenient` are left for another look.
  bool passes(const Json& row, bool lenient = false);
  /// The same for a row and the one joined to it: a field is looked up in `row` first.
  bool passes(const Json& row, const Json& joined);

  bool empty() const { return conditions_.empty(); }
  /// "split = 'valid' (found: test, train)": what the conditions were and which values the fields had, for the message about an empty
  /// split.
  std::string describe() const;

 private:
  enum class Operator { equal, not_equal, less, at_most, more, at_least };
  struct Condition {
    std::string field;
    Operator op = Operator::equal;
    std::string operand;
    double number = 0;
    std::set<std::string> found;  ///< the first few values seen
  };
  static bool holds(Condition& condition, const Json& value);

  std::vector<Condition> conditions_;
};

}  // namespace mmtune::data
