#include "vision/encode_png.h"

#include <png.h>

#include <string>

#include "core/error.h"

namespace mmtune::vision {

std::vector<std::byte> encode_png(const Image& image) {
  png_image header{};
  header.version = PNG_IMAGE_VERSION;
  header.width = static_cast<png_uint_32>(image.width);
  header.height = static_cast<png_uint_32>(image.height);
  header.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = 0;
  std::vector<std::byte> bytes;
  bool done = png_image_write_to_memory(&header, nullptr, &size, 0, image.pixels.data(), 0, nullptr) != 0;
  if (done) {
    bytes.resize(size);
    done = png_image_write_to_memory(&header, bytes.data(), &size, 0, image.pixels.data(), 0, nullptr) != 0;
    bytes.resize(size);
  }
  const std::string reason = header.message;
  png_image_free(&header);
  if (!done) throw Error({.what = "cannot encode a picture: " + printable(reason)});
  return bytes;
}

}  // namespace mmtune::vision
