#include "data/filter.h"

#include <charconv>
#include <cmath>

#include "core/error.h"

namespace mmtune::data {

namespace {

constexpr std::size_t shown_values = 8;

std::optional<double> to_number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

}  // namespace

std::optional<std::string> scalar_text(const Json& value) {
  switch (value.type()) {
    case Json::value_t::string:
      return value.get<std::string>();
    case Json::value_t::boolean:
      return value.get<bool>() ? "true" : "false";
    case Json::value_t::number_integer:
      return std::to_string(value.get<std::int64_t>());
    case Json::value_t::number_unsigned:
      return std::to_string(value.get<std::uint64_t>());
    case Json::value_t::number_float: {
      const double number = value.get<double>();
      if (number != std::floor(number) || std::abs(number) > 9e15) return std::nullopt;
      return std::to_string(static_cast<std::int64_t>(number));
    }
    default:
      return std::nullopt;
  }
}

Filter::Filter(const std::map<std::string, std::string>& conditions) {
  // Longer signs first: "<=" begins with "<".
  static const std::pair<std::string_view, Operator> signs[] = {{"!=", Operator::not_equal}, {"<=", Operator::at_most},
                                                                {">=", Operator::at_least},  {"<", Operator::less},
                                                                {">", Operator::more},       {"=", Operator::equal}};
  for (const auto& [field, text] : conditions) {
    Condition condition;
    condition.field = field;
    condition.operand = text;
    for (const auto& [sign, op] : signs) {
      if (!text.starts_with(sign)) continue;
      condition.op = op;
      condition.operand = text.substr(sign.size());
      break;
    }
    if (condition.op != Operator::equal && condition.op != Operator::not_equal) {
      const auto number = to_number(condition.operand);
      if (!number) {
        throw UsageError({.what = "a comparison needs a number",
                          .where = "where." + field,
                          .got = "'" + printable(text) + "'",
                          .hint = "to ask for this very text, write '=" + printable(text) + "'"});
      }
      condition.number = *number;
    }
    conditions_.push_back(std::move(condition));
  }
}

bool Filter::holds(Condition& condition, const Json& value) {
  std::optional<std::string> text = scalar_text(value);
  if (!text && value.is_number()) text = value.dump();
  if (!text) return false;
  if (condition.found.size() <= shown_values) condition.found.insert(*text);
  if (condition.op == Operator::equal) return *text == condition.operand;
  if (condition.op == Operator::not_equal) return *text != condition.operand;
  const auto number = to_number(*text);
  if (!number) return false;
  switch (condition.op) {
    case Operator::less:
      return *number < condition.number;
    case Operator::at_most:
      return *number <= condition.number;
    case Operator::more:
      return *number > condition.number;
    default:
      return *number >= condition.number;
  }
}

bool Filter::passes(const Json& row, bool lenient) {
  bool all = true;
  for (Condition& condition : conditions_) {
    const auto found = row.find(condition.field);
    if (found == row.end() || found->is_null()) {
      all = all && lenient;
    } else if (!holds(condition, *found)) {
      all = false;
    }
  }
  return all;
}

bool Filter::passes(const Json& row, const Json& joined) {
  bool all = true;
  for (Condition& condition : conditions_) {
    auto found = row.find(condition.field);
    if (found == row.end() || found->is_null()) {
      found = joined.find(condition.field);
      if (found == joined.end()) return false;
    }
    all = holds(condition, *found) && all;
  }
  return all;
}

std::string Filter::describe() const {
  static const char* const signs[] = {"=", "!=", "<", "<=", ">", ">="};
  std::string text;
  for (const Condition& condition : conditions_) {
    if (!text.empty()) text += " and ";
    text += condition.field + " " + signs[static_cast<int>(condition.op)] + " '" + printable(condition.operand) + "'";
    if (condition.found.empty()) {
      text += " (no row has this field)";
      continue;
    }
    text += " (found: ";
    std::size_t shown = 0;
    for (const std::string& value : condition.found) {
      if (shown == shown_values) break;
      text += (shown++ == 0 ? "" : ", ") + printable(value, 30);
    }
    text += condition.found.size() > shown_values ? ", …)" : ")";
  }
  return text;
}

}  // namespace mmtune::data
