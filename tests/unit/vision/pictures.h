#pragma once
// Pictures built in the test, and encoders for them.

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <span>
#include <string>

#include <jpeglib.h>
#include <png.h>
#include <webp/encode.h>

#include "vision/image.h"

namespace mmtune::test {

inline vision::Image noise(std::int64_t width, std::int64_t height, unsigned seed = 1) {
  vision::Image image{width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(width * height * 3))};
  std::mt19937 random(seed);
  for (auto& value : image.pixels) value = static_cast<std::uint8_t>(random());
  return image;
}

/// A slope in each channel, which JPEG keeps within a few levels.
inline vision::Image slope(std::int64_t width, std::int64_t height) {
  vision::Image image{width, height, {}};
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t x = 0; x < width; ++x) {
      image.pixels.push_back(static_cast<std::uint8_t>(x * 255 / width));
      image.pixels.push_back(static_cast<std::uint8_t>(y * 255 / height));
      image.pixels.push_back(static_cast<std::uint8_t>(255 - x * 255 / width));
    }
  }
  return image;
}

inline std::string as_png(const vision::Image& image) {
  png_image description{};
  description.version = PNG_IMAGE_VERSION;
  description.width = static_cast<png_uint_32>(image.width);
  description.height = static_cast<png_uint_32>(image.height);
  description.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = 0;
  png_image_write_get_memory_size(description, size, 0, image.pixels.data(), 0, nullptr);
  std::string bytes(size, '\0');
  png_image_write_to_memory(&description, bytes.data(), &size, 0, image.pixels.data(), 0, nullptr);
  bytes.resize(size);
  return bytes;
}

struct JpegOptions {
  int quality = 95;
  bool progressive = false;
  std::string exif;  ///< the body of an APP1 marker
};

inline std::string as_jpeg(const vision::Image& image, const JpegOptions& options = {}) {
  jpeg_compress_struct info;
  jpeg_error_mgr errors;
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* buffer = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &buffer, &size);
  info.image_width = static_cast<JDIMENSION>(image.width);
  info.image_height = static_cast<JDIMENSION>(image.height);
  info.input_components = 3;
  info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, options.quality, TRUE);
  if (options.progressive) jpeg_simple_progression(&info);
  jpeg_start_compress(&info, TRUE);
  if (!options.exif.empty()) {
    jpeg_write_marker(&info, JPEG_APP0 + 1, reinterpret_cast<const JOCTET*>(options.exif.data()),
                      static_cast<unsigned>(options.exif.size()));
  }
  while (info.next_scanline < info.image_height) {
    auto* row = const_cast<JSAMPLE*>(image.pixels.data() + info.next_scanline * image.width * 3);
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  std::string bytes(reinterpret_cast<char*>(buffer), size);
  std::free(buffer);
  return bytes;
}

inline std::string as_webp(const vision::Image& image) {
  std::uint8_t* buffer = nullptr;
  const std::size_t size = WebPEncodeLosslessRGB(image.pixels.data(), static_cast<int>(image.width), static_cast<int>(image.height),
                                                 static_cast<int>(image.width * 3), &buffer);
  std::string bytes(reinterpret_cast<char*>(buffer), size);
  WebPFree(buffer);
  return bytes;
}

inline vision::Image decode(const std::string& bytes, const vision::DecodeLimits& limits = {}) {
  return vision::decode_image(std::as_bytes(std::span(bytes.data(), bytes.size())), "picture", limits);
}

}  // namespace mmtune::test
