#include "core/options.h"

#include <cmath>

#include "core/toml.h"

namespace mmtune {

namespace {

template <class T>
inline constexpr bool is_one_of(const FieldRef& value) {
  return std::holds_alternative<T*>(value);
}

std::string bound(double number) {
  // 1000000 and not 1e+06.
  if (std::abs(number) < 1e15 && number == std::floor(number)) return std::to_string(static_cast<std::int64_t>(number));
  return toml_number(number);
}

std::string bounds(const FieldSpec& spec) {
  std::string lower, upper;
  if (spec.min) lower = ">= " + bound(*spec.min);
  if (spec.above) lower = "> " + bound(*spec.above);
  if (spec.max) upper = "<= " + bound(*spec.max);
  if (spec.below) upper = "< " + bound(*spec.below);
  if (lower.empty() && upper.empty()) return {};
  return " " + lower + (lower.empty() || upper.empty() ? "" : " and ") + upper;
}

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}

}  // namespace

void OptionVisitor::require(std::string_view, bool, const std::string&, const std::string&) {}

std::string accepted(const FieldRef& value, const FieldSpec& spec) {
  const bool list =
      is_one_of<std::vector<std::string>>(value) || is_one_of<std::vector<std::int64_t>>(value) || is_one_of<std::vector<double>>(value);
  const std::string start = list ? (spec.min_items > 1   ? "a list of at least " + std::to_string(spec.min_items) + " "
                                    : spec.min_items > 0 ? "a non-empty list of "
                                                         : "a list of ")
                                 : std::string();
  if (is_one_of<bool>(value) || is_one_of<std::optional<bool>>(value)) return "true or false";
  if (is_one_of<std::int64_t>(value) || is_one_of<std::optional<std::int64_t>>(value)) return "an integer" + bounds(spec);
  if (is_one_of<double>(value) || is_one_of<std::optional<double>>(value)) return "a number" + bounds(spec);
  if (is_one_of<std::vector<std::int64_t>>(value)) return start + "integers" + bounds(spec);
  if (is_one_of<std::vector<double>>(value)) return start + "numbers" + bounds(spec);
  if (is_one_of<std::map<std::string, std::string>>(value)) return "a table of strings";
  if (!spec.choices.empty()) return start + "one of " + joined(spec.choices);
  if (list) return start + "strings";
  return spec.required ? "a string that is not empty" : "a string";
}

}  // namespace mmtune
