#include "vision/encode_jpeg.h"

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// jpeglib.h needs size_t and FILE declared before it.
#include <jpeglib.h>

#include "core/error.h"

namespace mmtune::vision {

namespace {

constexpr std::int64_t most_side = 65'500;

// As in decode_jpeg.cpp: the function that calls into libjpeg below the setjmp holds nothing that needs a destructor.
class JpegWriter {
 public:
  JpegWriter() = default;
  ~JpegWriter() {
    if (created_) jpeg_destroy_compress(&info_);
    std::free(bytes_);
  }
  JpegWriter(const JpegWriter&) = delete;
  JpegWriter& operator=(const JpegWriter&) = delete;

  bool write(const Image& image, int quality) {
    info_.err = jpeg_std_error(&errors_);
    errors_.error_exit = on_error;
    info_.client_data = this;
    if (setjmp(jump_) != 0) return false;
    jpeg_create_compress(&info_);
    created_ = true;
    jpeg_mem_dest(&info_, &bytes_, &size_);
    info_.image_width = static_cast<JDIMENSION>(image.width);
    info_.image_height = static_cast<JDIMENSION>(image.height);
    info_.input_components = 3;
    info_.in_color_space = JCS_RGB;
    jpeg_set_defaults(&info_);
    jpeg_set_quality(&info_, quality, TRUE);
    jpeg_start_compress(&info_, TRUE);
    while (info_.next_scanline < info_.image_height) {
      // libjpeg only reads from the row.
      auto* row = const_cast<JSAMPROW>(image.pixels.data() + std::size_t{info_.next_scanline} * std::size_t{info_.image_width} * 3);
      jpeg_write_scanlines(&info_, &row, 1);
    }
    jpeg_finish_compress(&info_);
    return true;
  }

  const unsigned char* bytes() const { return bytes_; }
  std::size_t size() const { return size_; }
  const char* message() const { return message_; }

 private:
  [[noreturn]] static void on_error(j_common_ptr info) {
    JpegWriter& writer = *static_cast<JpegWriter*>(info->client_data);
    info->err->format_message(info, writer.message_);
    std::longjmp(writer.jump_, 1);
  }

  jpeg_compress_struct info_{};
  jpeg_error_mgr errors_{};
  std::jmp_buf jump_{};
  unsigned char* bytes_ = nullptr;
  unsigned long size_ = 0;
  char message_[JMSG_LENGTH_MAX] = {};
  bool created_ = false;
};

}  // namespace

std::vector<std::byte> encode_jpeg(const Image& image, int quality) {
  if (image.width < 1 || image.height < 1 || image.width > most_side || image.height > most_side)
    throw Error({.what = "a JPEG cannot have this size", .got = std::to_string(image.width) + "x" + std::to_string(image.height)});
  JpegWriter writer;
  if (!writer.write(image, quality)) throw Error({.what = "the picture cannot be encoded", .got = writer.message()});
  std::vector<std::byte> bytes(writer.size());
  std::memcpy(bytes.data(), writer.bytes(), writer.size());
  return bytes;
}

Image thumbnail(const Image& image, std::int64_t side) {
  const std::int64_t longer = std::max(image.width, image.height);
  if (longer <= side) return image;
  const auto scaled = [&](std::int64_t length) { return std::max<std::int64_t>(1, length * side / longer); };
  return resize(image, scaled(image.width), scaled(image.height), Filter::bilinear);
}

}  // namespace mmtune::vision
