// The image path of visual prompts. Whole pictures are compared with Pillow's by the golden case `preprocess`.
#include "vision/frame.h"

#include <gtest/gtest.h>

#include <numeric>

#include "support/support.h"

namespace mmtune::vision {
namespace {

Image counted(std::int64_t width, std::int64_t height) {
  Image image{width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(width * height * 3))};
  std::iota(image.pixels.begin(), image.pixels.end(), std::uint8_t{0});
  return image;
}

TEST(Frame, LongerSideIsTruncated) {
  EXPECT_EQ(shorter_side_size({61, 40}, 164), (Size{250, 164}));
  EXPECT_EQ(shorter_side_size({211, 300}, 164), (Size{164, 233}));
  EXPECT_EQ(shorter_side_size({32, 32}, 164), (Size{164, 164}));
  EXPECT_EQ(shorter_side_size({1, 1}, 164), (Size{164, 164}));
}

TEST(Frame, HalvesOfTheCropAreRoundedToEven) {
  EXPECT_EQ(centre_offset({100, 101}, 100), (Offset{0, 0}));  // 0.5
  EXPECT_EQ(centre_offset({103, 105}, 100), (Offset{2, 2}));  // 1.5 and 2.5
  EXPECT_EQ(centre_offset({107, 104}, 100), (Offset{4, 2}));  // 3.5
}

TEST(Frame, AThreadOfAPictureIsRefused) {
  const auto message = test::error_of([] { shorter_side_size({1, 40'000'000}, 164); });
  EXPECT_NE(message.find("too long for its width"), std::string::npos) << message;
  EXPECT_NE(message.find("1 x 40000000"), std::string::npos) << message;
}

TEST(Frame, FlipsFirstAndCropsWhereAsked) {
  const Image image = counted(5, 3);
  const Image left = fit_square(image, 3, false, Offset{0, 0});
  EXPECT_EQ(left.pixels, crop(image, 0, 0, 3, 3).pixels);
  EXPECT_EQ(fit_square(image, 3, true, Offset{0, 0}).pixels, crop(flip_horizontal(image), 0, 0, 3, 3).pixels);
  EXPECT_EQ(fit_square(image, 3).pixels, crop(image, 1, 0, 3, 3).pixels);
}

TEST(Frame, BlackAroundThePicture) {
  const Image image = counted(2, 2);
  const std::vector<float> values = framed(image, 6);
  ASSERT_EQ(values.size(), 3U * 6 * 6);
  float sum = 0;
  for (const float value : values) sum += value;
  EXPECT_FLOAT_EQ(values[2 * 6 + 2], 0.0F);
  EXPECT_FLOAT_EQ(values[36 + 2 * 6 + 2], 1.0F / 255);
  EXPECT_FLOAT_EQ(values[72 + 3 * 6 + 3], 11.0F / 255);
  EXPECT_FLOAT_EQ(sum, 66.0F / 255);
}

TEST(Frame, RefusesWhatHasNoMiddle) {
  for (const auto& sizes : {std::array<std::int64_t, 3>{3, 3, 6}, {2, 3, 7}, {8, 8, 6}}) {
    const auto message = test::error_of([&] { framed(counted(sizes[0], sizes[1]), sizes[2]); });
    EXPECT_NE(message.find("frame of " + std::to_string(sizes[2])), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace mmtune::vision
