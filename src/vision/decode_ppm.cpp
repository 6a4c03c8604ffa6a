// Portable pixmaps (P6, 8 bits): a header and plain RGB. Raw pixels of data sets pass as such.
#include <cstring>
#include <string>

#include "core/error.h"
#include "vision/decoders.h"

namespace mmtune::vision {

namespace {

bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

/// A number of the header, white space and comments before it left out.
std::uint64_t number(std::string_view text, std::size_t& at, const std::string& where) {
  while (at < text.size() && (is_space(text[at]) || text[at] == '#')) {
    if (text[at] == '#') {
      while (at < text.size() && text[at] != '\n') ++at;
    } else {
      ++at;
    }
  }
  std::uint64_t value = 0;
  const std::size_t begin = at;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9' && at - begin < 10; ++at) {
    value = value * 10 + static_cast<std::uint64_t>(text[at] - '0');
  }
  if (at == begin || at == text.size() || !is_space(text[at])) refuse_picture("PPM", where, "the header is damaged");
  return value;
}

}  // namespace

Decoded decode_ppm(std::span<const std::byte> bytes, const std::string& where, const DecodeLimits& limits) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::size_t at = 2;
  const std::uint64_t width = number(text, at, where), height = number(text, at, where), most = number(text, at, where);
  ++at;
  check_declared_size(width, height, where, limits);
  if (most != 255) refuse_picture("PPM", where, "only values up to 255 are supported");
  const std::uint64_t size = width * height * 3;
  if (text.size() - at != size) {
    refuse_picture("PPM", where, "it has " + std::to_string(text.size() - at) + " bytes of pixels, not " + std::to_string(size));
  }
  Decoded decoded{.image = {static_cast<std::int64_t>(width), static_cast<std::int64_t>(height), {}}};
  decoded.image.pixels.resize(size);
  std::memcpy(decoded.image.pixels.data(), text.data() + at, size);
  return decoded;
}

}  // namespace mmtune::vision
