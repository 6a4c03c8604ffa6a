#pragma once
// Reading config.json: typed values whose errors name the file and the key.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"

namespace mmtune::backbones {

class Config {
 public:
  Config(const Json& json, std::string where) : json_(&json), where_(std::move(where)) {}
  const std::string& where() const { return where_; }

  bool has(const std::string& key) const { return find(key) != nullptr; }  ///< and not null
  std::int64_t integer(const std::string& key) const;                      ///< required, at least 1
  std::int64_t integer(const std::string& key, std::int64_t fallback) const;
  double number(const std::string& key, double fallback) const;
  /// A token's id, or the first of a list of them, as newer configurations have it for the tokens that end a text.
  std::int64_t token(const std::string& key, std::int64_t fallback) const;
  bool flag(const std::string& key, bool fallback) const;
  std::string text(const std::string& key, const std::string& fallback) const;
  /// An integer or a pair of integers [height, width].
  std::pair<std::int64_t, std::int64_t> size(const std::string& key) const;
  std::pair<std::int64_t, std::int64_t> size(const std::string& key, std::int64_t fallback) const;
  /// A list of `count` positive integers; a count of 0: at least one.
  std::vector<std::int64_t> integers(const std::string& key, std::size_t count = 0) const;
  /// Whether `key` is there and not null.
  /// The object under `key`, which must be there.
  Config section(const std::string& key) const;
  /// Throws Error when `key` is there and differs from the only value that is supported.
  void require(const std::string& key, const Json& only) const;

 private:
  const Json* find(const std::string& key) const;
  [[noreturn]] void wrong(const std::string& key, const std::string& expected) const;
  const Json* json_;
  std::string where_;
};

}  // namespace mmtune::backbones
