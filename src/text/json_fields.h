#pragma once
// Strict reading of one JSON object: every key has a type, and a key that nobody asked for is an error.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace mmtune::text {

class JsonFields {
 public:
  /// `object` must outlive this. `where` names it in messages ("tokenizer.json: normalizer"). Throws Error if it is no object.
  JsonFields(const Json& object, std::string where);

  const std::string& where() const { return where_; }

  /// Each reads a key of the given type; throws Error where it is missing or of another type.
  const Json& any(std::string_view key);
  std::string string(std::string_view key);
  bool boolean(std::string_view key);
  std::int64_t integer(std::string_view key, std::int64_t low, std::int64_t high);
  const Json& array(std::string_view key);
  const Json& object(std::string_view key);

  /// nullptr where the key is missing or null.
  const Json* optional(std::string_view key);
  bool boolean_or(std::string_view key, bool otherwise);

  /// Marks a key as known without reading it.
  void ignore(std::string_view key);
  /// Throws Error naming a key that was neither read nor ignored: an unknown setting could change the result.
  void finish() const;

  [[noreturn]] void fail(std::string_view key, std::string expected, const Json& got) const;

 private:
  const Json& object_;
  std::string where_;
  std::vector<std::string> known_;
};

/// How a JSON value looks in a message: its text if it is short, its type otherwise.
std::string shown(const Json& value);

/// An Error that refuses a component by name.
[[noreturn]] void refuse_component(const std::string& where, const std::string& type, std::string supported);

}  // namespace mmtune::text
