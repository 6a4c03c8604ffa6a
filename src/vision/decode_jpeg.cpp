// JPEG through libjpeg-turbo with the settings that Pillow uses: its default (accurate integer) transform and smooth upsampling.

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string_view>

// jpeglib.h needs size_t and FILE declared before it.
#include <jpeglib.h>

#include "vision/decoders.h"
#include "vision/exif.h"

namespace mmtune::vision {

namespace {

// Every scan of a progressive file visits every block, however few bytes it has; encoders make about ten.
constexpr int max_scans = 100;

// libjpeg reports errors by a function that must not return. Functions that call into libjpeg below a setjmp hold nothing that needs a
// destructor: all state lives here, and its destructor releases it whatever happened.
class JpegReader {
 public:
  explicit JpegReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  ~JpegReader() {
    if (created_) jpeg_destroy_decompress(&info_);
  }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  bool read_header();
  /// Decodes into info().output_width * output_height * output_components bytes, after choose_output().
  bool read_pixels(std::uint8_t* pixels);

  jpeg_decompress_struct& info() { return info_; }
  const char* message() const { return message_; }

 private:
  static JpegReader& self(j_common_ptr info) { return *static_cast<JpegReader*>(info->client_data); }
  [[noreturn]] static void on_error(j_common_ptr info) {
    JpegReader& reader = self(info);
    info->err->format_message(info, reader.message_);
    std::longjmp(reader.jump_, 1);
  }
  static void ignore_message(j_common_ptr) {}
  // All bytes are there from the start, so that a wish for more means a truncated file: decoding is suspended, as it is in Pillow.
  static boolean no_more_input(j_decompress_ptr) { return FALSE; }
  static void skip_input(j_decompress_ptr info, long count) {
    if (count <= 0) return;
    const std::size_t skipped = std::min<std::size_t>(static_cast<std::size_t>(count), info->src->bytes_in_buffer);
    info->src->next_input_byte += skipped;
    info->src->bytes_in_buffer -= skipped;
  }
  static void no_operation(j_decompress_ptr) {}
  static void count_scans(j_common_ptr info) {
    JpegReader& reader = self(info);
    if (reader.info_.input_scan_number <= max_scans) return;
    std::snprintf(reader.message_, sizeof reader.message_, "more than %d scans", max_scans);
    std::longjmp(reader.jump_, 1);
  }
  bool truncated() {
    std::snprintf(message_, sizeof message_, "the file is truncated");
    return false;
  }

  std::span<const std::byte> bytes_;
  jpeg_decompress_struct info_{};
  jpeg_error_mgr errors_{};
  jpeg_source_mgr source_{};
  jpeg_progress_mgr progress_{};
  std::jmp_buf jump_{};
  char message_[JMSG_LENGTH_MAX] = {};
  bool created_ = false;
};

bool JpegReader::read_header() {
  info_.err = jpeg_std_error(&errors_);
  errors_.error_exit = on_error;
  errors_.output_message = ignore_message;
  info_.client_data = this;
  if (setjmp(jump_) != 0) return false;
  jpeg_create_decompress(&info_);
  created_ = true;
  source_.next_input_byte = reinterpret_cast<const JOCTET*>(bytes_.data());
  source_.bytes_in_buffer = bytes_.size();
  source_.init_source = no_operation;
  source_.fill_input_buffer = no_more_input;
  source_.skip_input_data = skip_input;
  source_.resync_to_restart = jpeg_resync_to_restart;
  source_.term_source = no_operation;
  info_.src = &source_;
  progress_.progress_monitor = count_scans;
  info_.progress = &progress_;
  jpeg_save_markers(&info_, JPEG_APP0 + 1, 0xffff);
  if (jpeg_read_header(&info_, TRUE) == JPEG_SUSPENDED) return truncated();
  return true;
}

bool JpegReader::read_pixels(std::uint8_t* pixels) {
  if (setjmp(jump_) != 0) return false;
  if (jpeg_start_decompress(&info_) == FALSE) return truncated();
  const std::size_t stride = static_cast<std::size_t>(info_.output_width) * static_cast<std::size_t>(info_.output_components);
  while (info_.output_scanline < info_.output_height) {
    JSAMPROW rows[8];
    const JDIMENSION wanted = std::min<JDIMENSION>(8, info_.output_height - info_.output_scanline);
    for (JDIMENSION i = 0; i < wanted; ++i) rows[i] = pixels + (info_.output_scanline + i) * stride;
    if (jpeg_read_scanlines(&info_, rows, wanted) == 0) return truncated();
  }
  // What follows the last row does not matter: the end marker may be missing.
  return true;
}

int orientation_of(const jpeg_decompress_struct& info) {
  constexpr std::string_view exif_name("Exif\0\0", 6);
  constexpr std::string_view xmp_name("http://ns.adobe.com/xap/1.0/\0", 29);
  std::string exif;
  std::string_view xmp;
  for (const jpeg_marker_struct* marker = info.marker_list; marker != nullptr; marker = marker->next) {
    const std::string_view data(reinterpret_cast<const char*>(marker->data), marker->data_length);
    // A block over 64 KiB is spread over several markers.
    if (data.starts_with(exif_name)) exif += exif.empty() ? data : data.substr(exif_name.size());
    if (data.starts_with(xmp_name)) xmp = data.substr(xmp_name.size());
  }
  const int noted = exif_orientation(exif);
  return noted != 0 ? noted : xmp_orientation(xmp);
}

// Pillow takes four components for ink as Adobe stores it, inverted, and mixes without a profile.
void ink_to_rgb(const std::uint8_t* ink, std::uint8_t* rgb, std::size_t pixels) {
  for (std::size_t i = 0; i < pixels; ++i, ink += 4, rgb += 3) {
    const int light = ink[3];  // 255 - black
    for (int channel = 0; channel < 3; ++channel) {
      const int product = (255 - ink[channel]) * light + 128;
      rgb[channel] = static_cast<std::uint8_t>(std::max(light - (((product >> 8) + product) >> 8), 0));
    }
  }
}

}  // namespace

Decoded decode_jpeg(std::span<const std::byte> bytes, const std::string& where, const DecodeLimits& limits) {
  JpegReader reader(bytes);
  if (!reader.read_header()) refuse_picture("JPEG", where, reader.message());
  jpeg_decompress_struct& info = reader.info();
  check_declared_size(info.image_width, info.image_height, where, limits);
  if (info.num_components != 1 && info.num_components != 3 && info.num_components != 4) {
    refuse_picture("JPEG", where, std::to_string(info.num_components) + " components");
  }
  const bool ink = info.num_components == 4;
  info.out_color_space = ink ? JCS_CMYK : JCS_RGB;

  Decoded decoded;
  decoded.orientation = orientation_of(info);
  decoded.image.width = info.image_width;
  decoded.image.height = info.image_height;
  const std::size_t pixels = static_cast<std::size_t>(info.image_width) * info.image_height;
  decoded.image.pixels.resize(pixels * 3);
  if (ink) {
    std::vector<std::uint8_t> stored(pixels * 4);
    if (!reader.read_pixels(stored.data())) refuse_picture("JPEG", where, reader.message());
    ink_to_rgb(stored.data(), decoded.image.pixels.data(), pixels);
  } else if (!reader.read_pixels(decoded.image.pixels.data())) {
    refuse_picture("JPEG", where, reader.message());
  }
  return decoded;
}

}  // namespace mmtune::vision
