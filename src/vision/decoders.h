#pragma once
// One function a format, for decode_image; each returns the stored pixels and the orientation noted beside them.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "vision/image.h"

namespace mmtune::vision {

struct Decoded {
  Image image;
  int orientation = 0;  ///< EXIF's 1 to 8; 0 where none is noted
};

Decoded decode_jpeg(std::span<const std::byte> bytes, const std::string& where, const DecodeLimits& limits);
Decoded decode_png(std::span<const std::byte> bytes, const std::string& where, const DecodeLimits& limits);
Decoded decode_ppm(std::span<const std::byte> bytes, const std::string& where, const DecodeLimits& limits);
Decoded decode_webp(std::span<const std::byte> bytes, const std::string& where, const DecodeLimits& limits);

/// Throws unless 1 <= width, 1 <= height and width * height <= limits.max_pixels.
void check_declared_size(std::uint64_t width, std::uint64_t height, const std::string& where, const DecodeLimits& limits);

/// "cannot decode the FORMAT picture: reason", naming `where`.
[[noreturn]] void refuse_picture(const char* format, const std::string& where, const std::string& reason);

}  // namespace mmtune::vision
