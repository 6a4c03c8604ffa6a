#pragma once
// A TOML document as plain values that remember where they were written. The parser (toml++) stays inside toml.cpp.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mmtune {

/// Where a value was written. `line` 0: the whole source (a file without the table in question, or an argument).
struct TomlPosition {
  std::shared_ptr<const std::string> source;
  std::uint32_t line = 0;
  std::uint32_t column = 0;
  std::string display() const;  ///< "recipe.toml:12:3", or the source's name alone
};

struct TomlMember;

/// One value. Only the member that `kind` names is meaningful.
struct TomlValue {
  enum class Kind { boolean, integer, real, string, array, table, date };

  Kind kind = Kind::table;
  bool boolean = false;
  std::int64_t integer = 0;
  double real = 0;
  std::string text;
  std::vector<TomlValue> items;
  std::vector<TomlMember> members;  ///< in the order of the file
  TomlPosition at;
  std::optional<std::string> typed;  ///< for a key=value argument: the value as it was typed, not yet understood

  TomlValue* find(std::string_view key);  ///< a table's member, or null
  const TomlValue* find(std::string_view key) const;
  std::string display() const;  ///< short, printable: for "got …"
};

struct TomlMember {
  std::string key;
  TomlPosition at;  ///< of the key
  TomlValue value;
};

/// Parses a whole document; the result is a table. Throws UsageError with "source:line:column" on a syntax error, a repeated key, invalid
/// UTF-8, or keys and brackets nested more deeply than any recipe needs.
TomlValue parse_toml(std::string_view text, const std::string& source);

/// `text` as a quoted TOML string.
std::string toml_quoted(std::string_view text);
/// `key` as it must stand before an equals sign: bare where TOML allows it, otherwise quoted.
std::string toml_key(std::string_view key);
/// The shortest text that reads back as exactly `number`, always with a point or an exponent.
std::string toml_number(double number);

}  // namespace mmtune
