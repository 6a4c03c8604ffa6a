#include "vision/exif.h"

#include <cstdint>
#include <optional>

namespace mmtune::vision {

namespace {

// A TIFF file in memory: every read is checked against the end of the block.
class Tiff {
 public:
  Tiff(std::string_view bytes, bool big_endian) : bytes_(bytes), big_endian_(big_endian) {}

  std::optional<std::uint64_t> read(std::uint64_t offset, unsigned width) const {
    if (offset > bytes_.size() || bytes_.size() - offset < width) return std::nullopt;
    std::uint64_t value = 0;
    for (unsigned i = 0; i < width; ++i) {
      const unsigned place = big_endian_ ? i : width - 1 - i;
      value = value << 8 | static_cast<unsigned char>(bytes_[offset + place]);
    }
    return value;
  }

 private:
  std::string_view bytes_;
  bool big_endian_;
};

// Bytes of one value of TIFF's integer types; 0 for the rest. BYTE and UNDEFINED are left out: Pillow gives them as byte strings, which
// equal no orientation.
unsigned integer_width(std::uint64_t type) {
  switch (type) {
    case 6:  // SBYTE
      return 1;
    case 3:  // SHORT
    case 8:  // SSHORT
      return 2;
    case 4:   // LONG
    case 9:   // SLONG
    case 13:  // IFD
      return 4;
    case 16:  // LONG8
      return 8;
    default:
      return 0;
  }
}

}  // namespace

int exif_orientation(std::string_view exif) {
  constexpr std::string_view prefix("Exif\0\0", 6);
  // Some writers put the prefix twice.
  for (int i = 0; i < 2 && exif.starts_with(prefix); ++i) exif.remove_prefix(prefix.size());
  const bool big_endian = exif.starts_with(std::string_view("MM\0\x2a", 4));
  if (!big_endian && !exif.starts_with(std::string_view("II\x2a\0", 4))) return 0;
  const Tiff tiff(exif, big_endian);
  const auto directory = tiff.read(4, 4);
  if (!directory) return 0;
  const auto count = tiff.read(*directory, 2);
  if (!count) return 0;
  for (std::uint64_t i = 0; i < *count; ++i) {
    const std::uint64_t entry = *directory + 2 + 12 * i;
    if (!tiff.read(entry, 12 - 8) || !tiff.read(entry + 8, 4)) return 0;  // the directory runs over the end of the block
    if (*tiff.read(entry, 2) != 0x0112) continue;
    const unsigned width = integer_width(*tiff.read(entry + 2, 2));
    const std::uint64_t values = *tiff.read(entry + 4, 4);
    if (width == 0 || values == 0) continue;
    const bool inside = values * width <= 4;
    const auto place = inside ? entry + 8 : *tiff.read(entry + 8, 4);
    const auto first = tiff.read(place, width);
    if (!first) continue;
    return *first <= 8 ? static_cast<int>(*first) : 0;
  }
  return 0;
}

int xmp_orientation(std::string_view xmp) {
  constexpr std::string_view name = "tiff:Orientation";
  for (std::size_t at = xmp.find(name); at != std::string_view::npos; at = xmp.find(name, at + 1)) {
    std::string_view rest = xmp.substr(at + name.size());
    if (rest.starts_with("=\"")) {
      rest.remove_prefix(2);
    } else if (rest.starts_with(">")) {
      rest.remove_prefix(1);
    } else {
      continue;
    }
    if (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') return rest[0] <= '8' ? rest[0] - '0' : 0;
  }
  return 0;
}

Image apply_orientation(Image image, int orientation) {
  if (orientation < 2 || orientation > 8) return image;
  // The stored picture is the seen one after an optional exchange of axes (5 to 8) and mirrors; the source pixel of seen (x, y) moves by a
  // fixed step along each axis.
  const bool swapped = orientation >= 5;
  const std::int64_t width = image.width;
  const std::int64_t height = image.height;
  const bool mirror_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;  // stored columns run backwards
  const bool mirror_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;  // stored rows run backwards
  const std::int64_t column_step = mirror_x ? -1 : 1;
  const std::int64_t row_step = mirror_y ? -width : width;
  const std::int64_t start = (mirror_x ? width - 1 : 0) + (mirror_y ? (height - 1) * width : 0);

  Image seen;
  seen.width = swapped ? height : width;
  seen.height = swapped ? width : height;
  seen.pixels.resize(image.pixels.size());
  const std::int64_t step_x = swapped ? row_step : column_step;
  const std::int64_t step_y = swapped ? column_step : row_step;
  std::uint8_t* target = seen.pixels.data();
  for (std::int64_t y = 0; y < seen.height; ++y) {
    for (std::int64_t x = 0; x < seen.width; ++x, target += 3) {
      const std::uint8_t* source = image.pixels.data() + (start + y * step_y + x * step_x) * 3;
      target[0] = source[0];
      target[1] = source[1];
      target[2] = source[2];
    }
  }
  return seen;
}

}  // namespace mmtune::vision
