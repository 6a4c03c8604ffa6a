#include "vision/exif.h"

#include <gtest/gtest.h>

#include "support/support.h"
#include "unit/vision/pictures.h"

namespace mmtune::test {
namespace {

using vision::exif_orientation;
using vision::Image;
using vision::xmp_orientation;

std::string bytes_of(std::uint64_t value, int width, bool big_endian) {
  std::string bytes;
  for (int i = 0; i < width; ++i) bytes += static_cast<char>(value >> 8 * (big_endian ? width - 1 - i : i));
  return bytes;
}

struct Entry {
  int tag = 0x0112;
  int type = 3;
  std::uint64_t count = 1;
  std::string value;  // four bytes
};

std::string block(const std::vector<Entry>& entries, bool big_endian, const std::string& behind = {}) {
  std::string bytes = big_endian ? std::string("MM\0\x2a", 4) : std::string("II\x2a\0", 4);
  bytes += bytes_of(8, 4, big_endian) + bytes_of(entries.size(), 2, big_endian);
  for (const Entry& entry : entries) {
    bytes +=
        bytes_of(static_cast<std::uint64_t>(entry.tag), 2, big_endian) + bytes_of(static_cast<std::uint64_t>(entry.type), 2, big_endian);
    bytes += bytes_of(entry.count, 4, big_endian) + entry.value;
  }
  return bytes + bytes_of(0, 4, big_endian) + behind;
}

Entry short_entry(int value, bool big_endian) {
  return {.value = bytes_of(static_cast<std::uint64_t>(value), 2, big_endian) + "zz"};
}

TEST(Exif, ReadsBothByteOrdersWithAndWithoutPrefix) {
  const std::string prefix("Exif\0\0", 6);
  for (const bool big_endian : {false, true}) {
    for (int value = 0; value <= 8; ++value) {
      const std::string bytes =
          block({{.tag = 0x010f, .type = 2, .value = std::string("Me\0\0", 4)}, short_entry(value, big_endian)}, big_endian);
      EXPECT_EQ(exif_orientation(bytes), value);
      EXPECT_EQ(exif_orientation(prefix + bytes), value);
      EXPECT_EQ(exif_orientation(prefix + prefix + bytes), value);
      EXPECT_EQ(exif_orientation(prefix + prefix + prefix + bytes), 0);
    }
  }
}

TEST(Exif, ReadsOtherIntegerTypes) {
  EXPECT_EQ(exif_orientation(block({{.type = 4, .value = bytes_of(6, 4, true)}}, true)), 6);
  EXPECT_EQ(exif_orientation(block({{.type = 1, .value = std::string("\6\0\0\0", 4)}}, false)), 0);
  EXPECT_EQ(exif_orientation(block({{.type = 6, .value = std::string("\6\0\0\0", 4)}}, false)), 6);
  // Values that do not fit into the entry lie behind the directory, at byte 26.
  EXPECT_EQ(exif_orientation(block({{.type = 4, .count = 2, .value = bytes_of(26, 4, true)}}, true, bytes_of(5, 4, true) + "rest")), 5);
  EXPECT_EQ(exif_orientation(block({{.type = 4, .count = 2, .value = bytes_of(27, 4, true)}}, true, bytes_of(5, 4, true))), 0);
}

TEST(Exif, DamagedBlocksHaveNoOrientation) {
  const std::string bytes = block({short_entry(6, true)}, true);
  EXPECT_EQ(exif_orientation(""), 0);
  EXPECT_EQ(exif_orientation("MM"), 0);
  EXPECT_EQ(exif_orientation("XX" + bytes.substr(2)), 0);
  for (std::size_t size = 0; size < bytes.size() - 4; ++size) EXPECT_EQ(exif_orientation(bytes.substr(0, size)), 0) << size;
  std::string far = bytes;
  far.replace(4, 4, "\xff\xff\xff\xff");
  EXPECT_EQ(exif_orientation(far), 0);
  EXPECT_EQ(exif_orientation(block({short_entry(300, true)}, true)), 0);
}

TEST(Exif, ReadsXmp) {
  EXPECT_EQ(xmp_orientation("<a tiff:Orientation=\"6\"/>"), 6);
  EXPECT_EQ(xmp_orientation("<tiff:Orientation>3</tiff:Orientation>"), 3);
  EXPECT_EQ(xmp_orientation("tiff:Orientation tiff:Orientation=\"x\" tiff:Orientation=\"8"), 8);
  EXPECT_EQ(xmp_orientation("tiff:Orientation=\""), 0);
  EXPECT_EQ(xmp_orientation("tiff:Orientation=\"9\""), 0);
  EXPECT_EQ(xmp_orientation(""), 0);
}

// Pixels named by a letter in all three channels.
Image letters(std::int64_t width, std::int64_t height, const std::string& text) {
  Image image{width, height, {}};
  for (const char letter : text) image.pixels.insert(image.pixels.end(), 3, static_cast<std::uint8_t>(letter));
  return image;
}

TEST(Exif, AppliesAllOrientations) {
  const Image stored = letters(3, 2, "abcdef");
  const std::vector<std::pair<std::int64_t, std::string>> seen = {{3, "abcdef"}, {3, "cbafed"}, {3, "fedcba"}, {3, "defabc"},
                                                                  {2, "adbecf"}, {2, "daebfc"}, {2, "fcebda"}, {2, "cfbead"}};
  for (int orientation = 1; orientation <= 8; ++orientation) {
    const auto& [width, text] = seen[static_cast<std::size_t>(orientation - 1)];
    const Image turned = apply_orientation(stored, orientation);
    EXPECT_EQ(turned.width, width);
    EXPECT_EQ(turned.height, 6 / width);
    EXPECT_EQ(turned.pixels, letters(width, 6 / width, text).pixels) << orientation;
  }
  EXPECT_EQ(apply_orientation(stored, 0).pixels, stored.pixels);
  EXPECT_EQ(apply_orientation(stored, 9).pixels, stored.pixels);
}

TEST(Exif, IsAppliedWhenDecoding) {
  const Image image = slope(24, 10);
  const std::string exif = std::string("Exif\0\0", 6) + block({short_entry(6, false)}, false);
  const Image upright = decode(as_jpeg(image, {.exif = exif}));
  EXPECT_EQ(upright.width, 10);
  EXPECT_EQ(upright.height, 24);
  EXPECT_EQ(upright.pixels, apply_orientation(decode(as_jpeg(image)), 6).pixels);
}

TEST(Geometry, CropsAndFlips) {
  const Image stored = letters(3, 2, "abcdef");
  EXPECT_EQ(flip_horizontal(stored).pixels, letters(3, 2, "cbafed").pixels);
  const Image part = crop(stored, 1, 0, 2, 2);
  EXPECT_EQ(part.width, 2);
  EXPECT_EQ(part.height, 2);
  EXPECT_EQ(part.pixels, letters(2, 2, "bcef").pixels);
  EXPECT_EQ(crop(stored, 0, 0, 3, 2).pixels, stored.pixels);
}

}  // namespace
}  // namespace mmtune::test
