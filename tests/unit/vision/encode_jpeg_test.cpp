#include "vision/encode_jpeg.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "core/error.h"

namespace mmtune::vision {
namespace {

Image slope(std::int64_t width, std::int64_t height) {
  Image image{.width = width, .height = height, .pixels = {}};
  for (std::int64_t y = 0; y < height; ++y)
    for (std::int64_t x = 0; x < width; ++x)
      for (const std::int64_t value : {x * 255 / width, y * 255 / height, std::int64_t{128}})
        image.pixels.push_back(static_cast<std::uint8_t>(value));
  return image;
}

TEST(EncodeJpeg, DecodesToNearlyTheSame) {
  const Image image = slope(33, 17);
  const Image back = decode_image(encode_jpeg(image, 95), "test");
  ASSERT_EQ(back.width, 33);
  ASSERT_EQ(back.height, 17);
  int worst = 0;
  for (std::size_t i = 0; i < image.pixels.size(); ++i) worst = std::max(worst, std::abs(int{image.pixels[i]} - int{back.pixels[i]}));
  EXPECT_LT(worst, 24);
}

TEST(EncodeJpeg, RefusesWhatTheFormatCannotHold) {
  EXPECT_THROW(encode_jpeg({.width = 70'000, .height = 1, .pixels = std::vector<std::uint8_t>(210'000)}, 90), Error);
  EXPECT_THROW(encode_jpeg({}, 90), Error);
}

TEST(Thumbnail, KeepsTheShape) {
  const Image wide = thumbnail(slope(400, 100), 160);
  EXPECT_EQ(wide.width, 160);
  EXPECT_EQ(wide.height, 40);
  EXPECT_EQ(thumbnail(slope(50, 20), 160).width, 50);
  EXPECT_EQ(thumbnail(slope(2000, 1), 100).height, 1);
}

}  // namespace
}  // namespace mmtune::vision
