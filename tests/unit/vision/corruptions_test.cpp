#include "vision/corruptions.h"

#include <gtest/gtest.h>

#include "support/support.h"
#include "unit/vision/pictures.h"

namespace mmtune::vision {
namespace {

/// Areas of colour, and detail of every size: without any that repeats, which could meet the grid of larger pixels.
Image scene(std::int64_t width, std::int64_t height) {
  Image image = test::slope(width, height);
  const Image detail = test::noise(width, height), areas = resize(test::noise(6, 5), width, height, Filter::bicubic);
  for (std::size_t i = 0; i < image.pixels.size(); ++i) {
    image.pixels[i] = static_cast<std::uint8_t>((image.pixels[i] + detail.pixels[i] + 2 * areas.pixels[i]) / 4);
  }
  return image;
}

double distance(const Image& a, const Image& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.pixels.size(); ++i) {
    const double difference = static_cast<double>(a.pixels[i]) - b.pixels[i];
    sum += difference * difference;
  }
  return sum / static_cast<double>(a.pixels.size());
}

class EveryCorruption : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryCorruption, GrowsWithItsSeverity) {
  for (const auto& [width, height] : {std::pair<std::int64_t, std::int64_t>{96, 80}, {32, 32}}) {
    const Image image = scene(width, height);
    double before = 0;
    for (int severity = 1; severity <= 5; ++severity) {
      const Corruption corruption = parse_corruption(GetParam() + ":" + std::to_string(severity), "test");
      const Image worse = corrupted(image, corruption, 7);
      ASSERT_EQ(worse.pixels.size(), image.pixels.size());
      const double now = distance(image, worse);
      EXPECT_GT(now, before) << GetParam() << " " << severity << " of " << width;
      before = now;
    }
  }
}

TEST_P(EveryCorruption, IsTheSameForTheSameSeed) {
  const Image image = scene(40, 30);
  const Corruption corruption = parse_corruption(GetParam() + ":3", "test");
  const Image once = corrupted(image, corruption, 11);
  EXPECT_EQ(once.pixels, corrupted(image, corruption, 11).pixels);
  const bool drawn = GetParam().ends_with("noise") || GetParam() == "motion_blur";
  EXPECT_EQ(once.pixels != corrupted(image, corruption, 12).pixels, drawn);
  EXPECT_EQ(describe(corruption), GetParam() + ":3");
}

TEST_P(EveryCorruption, TakesOnePixel) {
  const Image image{1, 1, {10, 100, 200}};
  EXPECT_EQ(corrupted(image, parse_corruption(GetParam() + ":5", "test"), 1).pixels.size(), 3U);
}

INSTANTIATE_TEST_SUITE_P(All, EveryCorruption, ::testing::ValuesIn(corruption_names()));

TEST(Corruptions, NamesAndSeverities) {
  const auto message = [](const char* text) { return test::error_of([&] { parse_corruption(text, "--corrupt"); }); };
  EXPECT_NE(message("gausian_noise:1").find("did you mean 'gaussian_noise'"), std::string::npos);
  for (const char* text : {"jpeg", "jpeg:", "jpeg:0", "jpeg:6", "jpeg:11"}) {
    EXPECT_NE(message(text).find("jpeg:1 to jpeg:5"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace mmtune::vision
