#include "core/toml.h"

#include <stdexcept>

namespace {

/// A condition that the parser takes for granted does not hold: what it was given is no TOML ("[[/…" does it).
struct TomlAssumption : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] void broken_assumption(const char* condition) {
  throw TomlAssumption(condition);
}

}  // namespace

// Its assertions can fail on hostile files. They must end the parsing, not the program, and must hold in every build.
#undef NDEBUG
#define TOML_ASSERT(condition) ((condition) ? static_cast<void>(0) : broken_assumption(#condition))

#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/error.h"

namespace mmtune {

namespace {

/// Refuses text whose keys or brackets nest deeply, before the recursive parser (and the recursive destructors of what it builds) see it.
/// Follows TOML's own lexical rules, so that for every prefix the parser accepts it stands at the same token.
class NestingGuard {
 public:
  NestingGuard(std::string_view text, const std::shared_ptr<const std::string>& source) : text_(text), source_(source) {}

  void check() {
    if (text_.starts_with("\xef\xbb\xbf")) at_ = 3;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '"' || c == '\'') {
        // Elsewhere the parser takes a quote for a part of a number or a date, and what follows for no string.
        constexpr std::string_view before_strings = "\n=[,{.";
        if (before_strings.find(previous_) == std::string_view::npos)
          throw UsageError({.what = "a quote stands where no string can begin", .where = *source_ + ":" + std::to_string(line_)});
        skip_string(c);
        previous_ = c;
        continue;
      }
      if (c == '#') {
        while (at_ < text_.size() && text_[at_] != '\n') ++at_;
        continue;
      }
      if (static_cast<unsigned char>(c) >= 0x80) {
        // TOML 1.0 has none here; the parser's tables of such letters have holes that it believes unreachable.
        throw UsageError({.what = "a character outside ASCII stands outside of strings and comments",
                          .where = *source_ + ":" + std::to_string(line_),
                          .hint = "put it in quotes"});
      }
      if (c == '.') {
        if (++dots_ > max_dots) refuse("dotted key");
      } else if (c == '[' || c == '{') {
        dots_ = 0;
        if (++depth_ > max_depth) refuse("nesting of brackets");
      } else if (c == ']' || c == '}') {
        dots_ = 0;
        depth_ = std::max(0, depth_ - 1);
      } else if (c == ',' || c == '=' || c == '\n') {
        dots_ = 0;
        if (c == '\n') ++line_;
      }
      if (c != ' ' && c != '\t' && c != '\r') previous_ = c;
      ++at_;
    }
  }

 private:
  static constexpr int max_dots = 16;
  static constexpr int max_depth = 16;

  void skip_string(char quote) {
    const std::string triple(3, quote);
    const bool multi = text_.substr(at_, 3) == triple;
    at_ += multi ? 3 : 1;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '\n') {
        ++line_;
        if (!multi) return;  // the parser stops here with an error
      }
      if (c == '\\' && quote == '"') {
        at_ += 2;
        continue;
      }
      if (multi && text_.substr(at_, 3) == triple) {
        at_ += 3;
        // Up to two quotes may stand directly before the closing three.
        for (int extra = 0; extra < 2 && at_ < text_.size() && text_[at_] == quote; ++extra) ++at_;
        return;
      }
      ++at_;
      if (!multi && c == quote) return;
    }
  }

  [[noreturn]] void refuse(const std::string& what) const {
    throw UsageError({.what = what + " is too deep", .where = *source_ + ":" + std::to_string(line_), .expected = "at most 16 levels"});
  }

  std::string_view text_;
  const std::shared_ptr<const std::string>& source_;
  std::size_t at_ = 0;
  char previous_ = '\n';  ///< the last character outside of strings, comments and blanks
  int line_ = 1;
  int dots_ = 0;
  int depth_ = 0;
};

TomlPosition position_of(const toml::source_region& region, const std::shared_ptr<const std::string>& source) {
  return {source, static_cast<std::uint32_t>(region.begin.line), static_cast<std::uint32_t>(region.begin.column)};
}

TomlValue convert(const toml::node& node, const std::shared_ptr<const std::string>& source) {
  TomlValue value;
  value.at = position_of(node.source(), source);
  if (const auto* boolean = node.as_boolean()) {
    value.kind = TomlValue::Kind::boolean;
    value.boolean = boolean->get();
  } else if (const auto* integer = node.as_integer()) {
    value.kind = TomlValue::Kind::integer;
    value.integer = integer->get();
  } else if (const auto* real = node.as_floating_point()) {
    value.kind = TomlValue::Kind::real;
    value.real = real->get();
  } else if (const auto* string = node.as_string()) {
    value.kind = TomlValue::Kind::string;
    value.text = string->get();
  } else if (const auto* array = node.as_array()) {
    value.kind = TomlValue::Kind::array;
    for (const toml::node& item : *array) value.items.push_back(convert(item, source));
  } else if (const auto* table = node.as_table()) {
    value.kind = TomlValue::Kind::table;
    for (const auto& [key, member] : *table) {
      value.members.push_back({std::string(key.str()), position_of(key.source(), source), convert(member, source)});
    }
    // The parser sorts by name; errors are wanted in the order of the file.
    std::stable_sort(value.members.begin(), value.members.end(), [](const TomlMember& a, const TomlMember& b) {
      return std::pair(a.at.line, a.at.column) < std::pair(b.at.line, b.at.column);
    });
  } else {
    value.kind = TomlValue::Kind::date;
  }
  return value;
}

bool is_bare_key(std::string_view key) {
  return !key.empty() && std::all_of(key.begin(), key.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  });
}

}  // namespace

std::string TomlPosition::display() const {
  const std::string name = source ? *source : std::string("recipe");
  return line == 0 ? name : name + ":" + std::to_string(line) + ":" + std::to_string(column);
}

TomlValue* TomlValue::find(std::string_view key) {
  const auto found = std::find_if(members.begin(), members.end(), [&](const TomlMember& member) { return member.key == key; });
  return found == members.end() ? nullptr : &found->value;
}

const TomlValue* TomlValue::find(std::string_view key) const {
  return const_cast<TomlValue*>(this)->find(key);
}

std::string TomlValue::display() const {
  switch (kind) {
    case Kind::boolean:
      return boolean ? "true" : "false";
    case Kind::integer:
      return std::to_string(integer);
    case Kind::real:
      return toml_number(real);
    case Kind::string:
      return "\"" + printable(text, 60) + "\"";
    case Kind::array:
      return "a list of " + std::to_string(items.size());
    case Kind::table:
      return "a table";
    case Kind::date:
      return "a date or time";
  }
  return {};
}

TomlValue parse_toml(std::string_view text, const std::string& source) {
  const auto name = std::make_shared<const std::string>(source);
  NestingGuard(text, name).check();
  try {
    const toml::table table = toml::parse(text);
    TomlValue root = convert(table, name);
    root.at = {name, 0, 0};
    return root;
  } catch (const TomlAssumption&) {
    throw UsageError(
        {.what = "is not TOML", .where = source, .hint = "look for a key or a table name that begins with a character not allowed there"});
  } catch (const toml::parse_error& error) {
    constexpr std::string_view preamble = "Error while parsing ";
    std::string_view what = error.description();
    if (what.starts_with(preamble)) what.remove_prefix(preamble.size());
    throw UsageError({.what = printable(what, 200), .where = position_of(error.source(), name).display()});
  }
}

std::string toml_quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      constexpr char digits[] = "0123456789ABCDEF";
      out += "\\u00";
      out += digits[byte >> 4];
      out += digits[byte & 15];
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string toml_key(std::string_view key) {
  return is_bare_key(key) ? std::string(key) : toml_quoted(key);
}

std::string toml_number(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, number).ptr;
  std::string out(buffer, end);
  if (out.find_first_of(".e") == std::string::npos) out += ".0";
  return out;
}

}  // namespace mmtune
