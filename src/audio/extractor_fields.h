#pragma once
// Typed fields of a feature extractor's configuration. An absent or null field has the class's default, as in transformers; a wrong type or
// a value out of range is an Error that names the field.

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.h"

namespace mmtune::audio {

/// What a configuration may at most ask for: samples that a sound is filled up to, and features of one sound.
inline constexpr std::int64_t most_samples = std::int64_t{1} << 25;
inline constexpr std::int64_t most_values = std::int64_t{1} << 24;

class ExtractorFields {
 public:
  /// `config` is an object and outlives this.
  ExtractorFields(const Json& config, std::string where) : config_(config), where_(std::move(where)) {}

  bool flag(const char* key, bool standard) const;
  double number(const char* key, double standard) const;  ///< finite
  std::int64_t integer(const char* key, std::int64_t standard, std::int64_t low, std::int64_t high) const;
  std::string text(const char* key, const std::string& standard, const std::vector<std::string>& known) const;
  std::int64_t rate(std::int64_t standard) const { return integer("sampling_rate", standard, 1'000, 384'000); }
  /// Throws Error where `fault` is not empty.
  void refuse(const std::string& fault) const;

 private:
  const Json* find(const char* key) const;  ///< null where absent or null
  [[noreturn]] void wrong(const char* key, const std::string& expected, const Json& got) const;

  const Json& config_;
  std::string where_;
};

}  // namespace mmtune::audio
