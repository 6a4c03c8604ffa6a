#include "vision/image.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "core/error.h"
#include "vision/decoders.h"
#include "vision/exif.h"

namespace mmtune::vision {

void check_declared_size(std::uint64_t width, std::uint64_t height, const std::string& where, const DecodeLimits& limits) {
  const std::string size = std::to_string(width) + " x " + std::to_string(height);
  if (width == 0 || height == 0) throw Error({.what = "the picture has no pixels", .where = where, .got = size});
  const auto limit = static_cast<std::uint64_t>(std::max<std::int64_t>(limits.max_pixels, 0));
  if (height > limit / width) {
    throw Error(
        {.what = "the picture declares too many pixels", .where = where, .expected = "at most " + std::to_string(limit), .got = size});
  }
}

void refuse_picture(const char* format, const std::string& where, const std::string& reason) {
  throw Error({.what = std::string("cannot decode the ") + format + " picture: " + printable(reason), .where = where});
}

Image decode_image(std::span<const std::byte> bytes, const std::string& where, const DecodeLimits& limits) {
  const std::string_view head(reinterpret_cast<const char*>(bytes.data()), std::min<std::size_t>(bytes.size(), 16));
  const auto oriented = [](Decoded decoded) { return apply_orientation(std::move(decoded.image), decoded.orientation); };
  if (head.starts_with("\xff\xd8\xff")) return oriented(decode_jpeg(bytes, where, limits));
  if (head.starts_with("\x89PNG\r\n\x1a\n")) return oriented(decode_png(bytes, where, limits));
  if (head.starts_with("RIFF") && head.size() >= 12 && head.substr(8, 4) == "WEBP") return oriented(decode_webp(bytes, where, limits));
  if (head.starts_with("P6") && head.size() > 2 && std::string_view(" \t\r\n#").find(head[2]) != std::string_view::npos)
    return decode_ppm(bytes, where, limits).image;
  throw Error({.what = "not a picture that can be read",
               .where = where,
               .expected = "JPEG, PNG or WebP",
               .got = bytes.empty() ? "an empty file" : "a file that starts with \"" + printable(head.substr(0, 8)) + "\""});
}

Image crop(const Image& image, std::int64_t x, std::int64_t y, std::int64_t width, std::int64_t height) {
  MMTUNE_ASSERT(x >= 0 && y >= 0 && width > 0 && height > 0 && x <= image.width - width && y <= image.height - height);
  Image out{width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(width * height * 3))};
  for (std::int64_t row = 0; row < height; ++row) {
    std::memcpy(out.pixels.data() + row * width * 3, image.pixels.data() + ((y + row) * image.width + x) * 3,
                static_cast<std::size_t>(width * 3));
  }
  return out;
}

Image flip_horizontal(const Image& image) {
  return apply_orientation(image, 2);
}

}  // namespace mmtune::vision
