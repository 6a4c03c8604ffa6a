// PNG through libpng, with the mapping to RGB that Pillow's modes imply.

#include <png.h>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "vision/decoders.h"
#include "vision/exif.h"

namespace mmtune::vision {

namespace {

constexpr png_alloc_size_t max_chunk_bytes = 8U << 20;  // of text, profiles and EXIF, compressed or not
constexpr png_uint_32 max_kept_chunks = 64;

// libpng reports errors by a function that must not return. Functions that call into libpng below a setjmp hold nothing that needs a
// destructor: all state lives here, and its destructor releases it whatever happened.
class PngReader {
 public:
  explicit PngReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  bool read_header();
  /// Asks for RGB bytes, for two-byte grey samples, or for one byte a pixel (grey or an index) according to the kind of picture.
  bool choose_output();
  /// All rows of row_bytes() each, one after the other, then the chunks behind them.
  bool read_rows(std::uint8_t* pixels);
  int orientation() const;

  png_uint_32 width() const { return png_get_image_width(png_, info_); }
  png_uint_32 height() const { return png_get_image_height(png_, info_); }
  int depth() const { return depth_; }
  bool is_colour() const { return colour_type_ == PNG_COLOR_TYPE_RGB || colour_type_ == PNG_COLOR_TYPE_RGB_ALPHA; }
  bool is_palette() const { return colour_type_ == PNG_COLOR_TYPE_PALETTE; }
  bool is_wide_grey() const { return colour_type_ == PNG_COLOR_TYPE_GRAY && depth_ == 16; }
  std::size_t row_bytes() const { return png_get_rowbytes(png_, info_); }
  std::span<const png_color> palette() const;
  const char* message() const { return message_; }

 private:
  [[noreturn]] static void on_error(png_structp png, png_const_charp text) {
    auto& reader = *static_cast<PngReader*>(png_get_error_ptr(png));
    std::snprintf(reader.message_, sizeof reader.message_, "%s", text);
    png_longjmp(png, 1);
  }
  static void ignore_warning(png_structp, png_const_charp) {}
  static void read_bytes(png_structp png, png_bytep target, png_size_t count) {
    auto& reader = *static_cast<PngReader*>(png_get_io_ptr(png));
    if (count > reader.bytes_.size() - reader.position_) png_error(png, "the file is truncated");
    std::memcpy(target, reader.bytes_.data() + reader.position_, count);
    reader.position_ += count;
  }

  std::span<const std::byte> bytes_;
  std::size_t position_ = 0;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  int depth_ = 0;
  int colour_type_ = 0;
  char message_[160] = {};
};

bool PngReader::read_header() {
  png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, ignore_warning);
  if (png_ != nullptr) info_ = png_create_info_struct(png_);
  if (info_ == nullptr) {
    std::snprintf(message_, sizeof message_, "libpng cannot be started");
    return false;
  }
  if (setjmp(png_jmpbuf(png_)) != 0) return false;
  png_set_read_fn(png_, this, read_bytes);
  png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // the pixels are limited before they are allocated
  png_set_chunk_malloc_max(png_, max_chunk_bytes);
  png_set_chunk_cache_max(png_, max_kept_chunks);
  // Colour management is not applied, so that its chunks need not be unpacked.
  static constexpr png_byte unused[] = "iCCP\0sPLT\0hIST\0cHRM\0gAMA\0sRGB\0pHYs\0oFFs\0pCAL\0sCAL\0tIME\0bKGD\0sBIT\0tRNS";
  png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, unused, sizeof unused / 5);
  png_read_info(png_, info_);
  depth_ = png_get_bit_depth(png_, info_);
  colour_type_ = png_get_color_type(png_, info_);
  return true;
}

bool PngReader::choose_output() {
  if (setjmp(png_jmpbuf(png_)) != 0) return false;
  png_set_packing(png_);
  // Of 16 bits Pillow keeps the high byte, except that a grey picture without alpha keeps both.
  if (depth_ == 16 && !is_wide_grey()) png_set_strip_16(png_);
  png_set_strip_alpha(png_);
  png_set_interlace_handling(png_);
  png_read_update_info(png_, info_);
  return true;
}

bool PngReader::read_rows(std::uint8_t* pixels) {
  if (setjmp(png_jmpbuf(png_)) != 0) return false;
  const std::size_t stride = row_bytes();
  const png_uint_32 rows = height();
  const int passes = png_get_interlace_type(png_, info_) == PNG_INTERLACE_NONE ? 1 : PNG_INTERLACE_ADAM7_PASSES;
  for (int pass = 0; pass < passes; ++pass) {
    for (png_uint_32 y = 0; y < rows; ++y) png_read_row(png_, pixels + y * stride, nullptr);
  }
  png_read_end(png_, info_);
  return true;
}

std::span<const png_color> PngReader::palette() const {
  png_colorp colours = nullptr;
  int count = 0;
  if (png_get_PLTE(png_, info_, &colours, &count) == 0 || count < 0) return {};
  return {colours, static_cast<std::size_t>(count)};
}

// The body of ImageMagick's "Raw profile type exif" text: a newline, a name, a length, then hexadecimal digits on several lines.
std::string hexadecimal_profile(std::string_view text) {
  for (int line = 0; line < 3; ++line) {
    const std::size_t end = text.find('\n');
    if (end == std::string_view::npos) return {};
    text.remove_prefix(end + 1);
  }
  std::string bytes;
  int pending = -1;
  for (const char c : text) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) continue;
    if (pending < 0) {
      pending = digit;
    } else {
      bytes += static_cast<char>(pending << 4 | digit);
      pending = -1;
    }
  }
  return bytes;
}

int PngReader::orientation() const {
  png_bytep exif = nullptr;
  png_uint_32 length = 0;
  std::string_view profile;
  std::string_view xmp;
  png_textp texts = nullptr;
  const int count = png_get_text(png_, info_, &texts, nullptr);
  for (int i = 0; i < count; ++i) {
    const std::string_view key(texts[i].key);
    const std::size_t size = texts[i].compression > 0 || texts[i].text_length == 0 ? texts[i].itxt_length : texts[i].text_length;
    const std::string_view text(texts[i].text, size);
    if (key == "Raw profile type exif") profile = text;
    if (key == "XML:com.adobe.xmp") xmp = text;
  }
  int noted = 0;
  if (png_get_eXIf_1(png_, info_, &length, &exif) != 0) {
    noted = exif_orientation({reinterpret_cast<const char*>(exif), length});
  } else if (!profile.empty()) {
    noted = exif_orientation(hexadecimal_profile(profile));
  }
  return noted != 0 ? noted : xmp_orientation(xmp);
}

// What each of the 256 one-byte values looks like: a palette's colours, or grey of 1, 2, 4 or 8 bits stretched to 0..255.
std::array<png_color, 256> colour_table(const PngReader& reader) {
  std::array<png_color, 256> table{};
  if (reader.is_palette()) {
    const auto palette = reader.palette();  // an index beyond it is black
    std::copy_n(palette.begin(), std::min(palette.size(), table.size()), table.begin());
    return table;
  }
  const int top = (1 << std::min(reader.depth(), 8)) - 1;
  for (int value = 0; value <= top; ++value) {
    const auto grey = static_cast<png_byte>(value * 255 / top);
    table[static_cast<std::size_t>(value)] = {grey, grey, grey};
  }
  return table;
}

}  // namespace

Decoded decode_png(std::span<const std::byte> bytes, const std::string& where, const DecodeLimits& limits) {
  PngReader reader(bytes);
  if (!reader.read_header()) refuse_picture("PNG", where, reader.message());
  check_declared_size(reader.width(), reader.height(), where, limits);
  if (!reader.choose_output()) refuse_picture("PNG", where, reader.message());

  Decoded decoded;
  decoded.image.width = reader.width();
  decoded.image.height = reader.height();
  const std::size_t pixels = static_cast<std::size_t>(reader.width()) * reader.height();
  std::vector<std::uint8_t>& rgb = decoded.image.pixels;
  rgb.resize(pixels * 3);
  if (reader.is_colour()) {
    if (!reader.read_rows(rgb.data())) refuse_picture("PNG", where, reader.message());
  } else {
    std::vector<std::uint8_t> stored(reader.row_bytes() * reader.height());
    if (!reader.read_rows(stored.data())) refuse_picture("PNG", where, reader.message());
    if (reader.is_wide_grey()) {
      for (std::size_t i = 0; i < pixels; ++i) {
        // Big-endian; Pillow clips what is over 255 instead of scaling.
        const std::uint8_t grey = stored[2 * i] != 0 ? 255 : stored[2 * i + 1];
        std::fill_n(rgb.data() + 3 * i, 3, grey);
      }
    } else {
      const auto table = colour_table(reader);
      for (std::size_t i = 0; i < pixels; ++i) {
        const png_color colour = table[stored[i]];
        rgb[3 * i] = colour.red;
        rgb[3 * i + 1] = colour.green;
        rgb[3 * i + 2] = colour.blue;
      }
    }
  }
  decoded.orientation = reader.orientation();
  return decoded;
}

}  // namespace mmtune::vision
