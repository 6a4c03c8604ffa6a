#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "core/error.h"
#include "support/support.h"
#include "unit/vision/pictures.h"

namespace mmtune::test {
namespace {

using vision::Image;

int largest_difference(const Image& a, const Image& b) {
  EXPECT_EQ(a.pixels.size(), b.pixels.size());
  int largest = 0;
  for (std::size_t i = 0; i < std::min(a.pixels.size(), b.pixels.size()); ++i) {
    largest = std::max(largest, std::abs(static_cast<int>(a.pixels[i]) - static_cast<int>(b.pixels[i])));
  }
  return largest;
}

TEST(Decode, LosslessFormatsGiveThePixelsBack) {
  for (const auto& [width, height] : {std::pair{1, 1}, {17, 3}, {64, 65}}) {
    const Image image = noise(width, height);
    for (const std::string& bytes : {as_png(image), as_webp(image)}) {
      const Image decoded = decode(bytes);
      EXPECT_EQ(decoded.width, width);
      EXPECT_EQ(decoded.height, height);
      EXPECT_EQ(decoded.pixels, image.pixels);
    }
  }
}

TEST(Decode, PortablePixmaps) {
  const Image image = noise(3, 2);
  const std::string pixels(image.pixels.begin(), image.pixels.end());
  EXPECT_EQ(decode("P6\n3 2\n255\n" + pixels).pixels, image.pixels);
  EXPECT_EQ(decode("P6 # made by hand\n3\t2 255 " + pixels).pixels, image.pixels);
  const auto refused = [&](const std::string& bytes) { return error_of([&] { decode(bytes); }); };
  EXPECT_NE(refused("P6\n3 3\n255\n" + pixels).find("18 bytes of pixels, not 27"), std::string::npos);
  EXPECT_NE(refused("P6\n3 2\n65535\n" + pixels).find("up to 255"), std::string::npos);
  EXPECT_NE(refused("P6\n3").find("header is damaged"), std::string::npos);
  EXPECT_NE(refused("P6\n99999999999 2\n255\n").find("PPM"), std::string::npos);
  EXPECT_NE(refused("P6\n0 2\n255\n").find("picture"), std::string::npos);
  EXPECT_NE(refused("P6\n99999 99999\n255\n").find("picture"), std::string::npos);
}

TEST(Decode, JpegGivesThePixelsNearlyBack) {
  const Image image = slope(61, 45);
  for (const bool progressive : {false, true}) {
    const Image decoded = decode(as_jpeg(image, {.quality = 100, .progressive = progressive}));
    EXPECT_EQ(decoded.width, 61);
    EXPECT_EQ(decoded.height, 45);
    EXPECT_LE(largest_difference(decoded, image), 8);
  }
}

TEST(Decode, EveryTruncationIsRefusedOrWhole) {
  const Image image = noise(13, 11);
  for (const std::string& bytes : {as_png(image), as_webp(image), as_jpeg(image), as_jpeg(image, {.progressive = true})}) {
    const Image whole = decode(bytes);
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      try {
        // Only what follows the last pixel may be missing.
        EXPECT_EQ(decode(bytes.substr(0, size)).pixels, whole.pixels) << size;
        EXPECT_GE(size + 2, bytes.size());
      } catch (const Error&) {
      }
    }
  }
}

TEST(Decode, DamageIsRefusedOrDecodedToTheDeclaredSize) {
  const Image image = noise(9, 7);
  std::mt19937 random(5);
  for (const std::string& bytes : {as_png(image), as_webp(image), as_jpeg(image), as_jpeg(image, {.progressive = true})}) {
    for (std::size_t at = 0; at < bytes.size(); ++at) {
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(random());
      try {
        const Image decoded = decode(damaged, {.max_pixels = 100'000});
        EXPECT_EQ(decoded.pixels.size(), static_cast<std::size_t>(decoded.width * decoded.height * 3));
        EXPECT_LE(decoded.width * decoded.height, 100'000);
      } catch (const Error&) {
      }
    }
  }
}

TEST(Decode, DeclaredSizesOverTheLimitAreRefused) {
  const Image image = noise(20, 10);
  for (const std::string& bytes : {as_png(image), as_webp(image), as_jpeg(image)}) {
    EXPECT_NO_THROW(decode(bytes, {.max_pixels = 200}));
    const std::string message = error_of([&] { decode(bytes, {.max_pixels = 199}); });
    EXPECT_NE(message.find("expected at most 199, got 20 x 10"), std::string::npos) << message;
  }
}

TEST(Decode, OtherFilesAreRefusedByName) {
  EXPECT_EQ(error_of([] { decode(""); }), "picture: not a picture that can be read: expected JPEG, PNG or WebP, got an empty file");
  const std::string message = error_of([] { decode("GIF89a\x01"); });
  EXPECT_NE(message.find("GIF89a\\x01"), std::string::npos) << message;
  EXPECT_NE(error_of([] { decode("\xff\xd8\xff"); }).find("picture: cannot decode the JPEG picture"), std::string::npos);
}

TEST(Decode, ScansWithoutEndAreRefused) {
  // A progressive file whose last scan is repeated: few bytes, each a pass over all blocks.
  std::string bytes = as_jpeg(noise(16, 16), {.progressive = true});
  const std::size_t last = bytes.rfind("\xff\xda");
  const std::string scan = bytes.substr(last, bytes.size() - 2 - last);
  std::string many = bytes.substr(0, bytes.size() - 2);
  for (int i = 0; i < 200; ++i) many += scan;
  many += "\xff\xd9";
  const std::string message = error_of([&] { decode(many); });
  EXPECT_NE(message.find("scans"), std::string::npos) << message;
}

}  // namespace
}  // namespace mmtune::test
