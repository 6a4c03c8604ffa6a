#pragma once
// Typed fields of a preprocessor_config.json. An absent or null field has the class's default, as in transformers; a wrong type is an
// Error that names the field.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/json.h"
#include "vision/image.h"

namespace mmtune::vision {

/// A fixed height and width, or the length of the shorter edge with the picture's own proportions.
struct TargetSize {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t shortest_edge = 0;  ///< 0: height and width are given
};

/// What a bare number n means for a size.
enum class Number { square, shortest_edge };

/// "bilinear" and so on.
std::string_view filter_name(Filter filter);

class ProcessorFields {
 public:
  /// `config` is an object and outlives this.
  ProcessorFields(const Json& config, std::string where) : config_(config), where_(std::move(where)) {}

  bool flag(const char* key, bool standard) const;
  double number(const char* key, double standard) const;  ///< finite
  /// One number for all channels, or three.
  std::array<double, 3> channels(const char* key, const std::array<double, 3>& standard) const;
  /// {"height": h, "width": w}, {"shortest_edge": n}, [h, w] or n.
  TargetSize size(const char* key, TargetSize standard, Number number = Number::square) const;
  /// PIL's number: 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box, 5 hamming.
  Filter filter(const char* key, Filter standard) const;

 private:
  const Json* find(const char* key) const;  ///< null where absent or null
  [[noreturn]] void refuse(const char* key, const std::string& expected, const Json& got) const;

  const Json& config_;
  std::string where_;
};

}  // namespace mmtune::vision
