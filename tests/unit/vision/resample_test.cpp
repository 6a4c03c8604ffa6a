#include "vision/resample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "unit/vision/pictures.h"

namespace mmtune::test {
namespace {

using vision::Filter;
using vision::Image;
using vision::Taps;

constexpr Filter filters[] = {Filter::bilinear, Filter::bicubic, Filter::lanczos, Filter::box, Filter::hamming};

std::uint8_t weighted(const std::vector<std::uint8_t>& values, const Taps& taps, std::size_t i) {
  std::int64_t sum = std::int64_t{1} << (vision::weight_bits - 1);
  for (std::int64_t t = 0; t < taps.counts[i]; ++t) {
    sum += std::int64_t{taps.weights[i * static_cast<std::size_t>(taps.stride) + static_cast<std::size_t>(t)]} *
           values[static_cast<std::size_t>(taps.firsts[i] + t)];
  }
  return static_cast<std::uint8_t>(std::clamp<std::int64_t>(sum >> vision::weight_bits, 0, 255));
}

// The definition, one value at a time in 64 bits.
Image plain_rows(const Image& image, std::int64_t width, Filter filter) {
  const Taps taps = make_taps(image.width, width, filter);
  Image out{width, image.height, std::vector<std::uint8_t>(static_cast<std::size_t>(width * image.height * 3))};
  for (std::int64_t y = 0; y < image.height; ++y) {
    for (std::int64_t channel = 0; channel < 3; ++channel) {
      std::vector<std::uint8_t> line;
      for (std::int64_t x = 0; x < image.width; ++x)
        line.push_back(image.pixels[static_cast<std::size_t>((y * image.width + x) * 3 + channel)]);
      for (std::int64_t x = 0; x < width; ++x) {
        out.pixels[static_cast<std::size_t>((y * width + x) * 3 + channel)] = weighted(line, taps, static_cast<std::size_t>(x));
      }
    }
  }
  return out;
}

Image plain_columns(const Image& image, std::int64_t height, Filter filter) {
  const auto turned = vision::Image{image.height, image.width, {}};
  Image transposed = turned;
  transposed.pixels.resize(image.pixels.size());
  const auto transpose = [](const Image& from, Image& to) {
    for (std::int64_t y = 0; y < from.height; ++y) {
      for (std::int64_t x = 0; x < from.width; ++x) {
        for (std::int64_t c = 0; c < 3; ++c) {
          to.pixels[static_cast<std::size_t>((x * to.width + y) * 3 + c)] =
              from.pixels[static_cast<std::size_t>((y * from.width + x) * 3 + c)];
        }
      }
    }
  };
  transpose(image, transposed);
  const Image scaled = plain_rows(transposed, height, filter);
  Image out{image.width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(image.width * height * 3))};
  transpose(scaled, out);
  return out;
}

TEST(Resample, KernelsEqualTheDefinition) {
  std::mt19937 random(7);
  const auto side = [&] { return std::int64_t{1} + static_cast<std::int64_t>(random() % 70); };
  for (int round = 0; round < 60; ++round) {
    const Image image = noise(side(), side(), random());
    const std::int64_t width = side();
    const std::int64_t height = side();
    for (const Filter filter : filters) {
      EXPECT_EQ(resize(image, width, image.height, filter).pixels,
                width == image.width ? image.pixels : plain_rows(image, width, filter).pixels);
      EXPECT_EQ(resize(image, image.width, height, filter).pixels,
                height == image.height ? image.pixels : plain_columns(image, height, filter).pixels);
    }
  }
}

TEST(Resample, BothPassesRunInPillowsOrder) {
  const Image image = noise(60, 90);
  // 90 - 30 > 2 * (60 - 40): columns first.
  EXPECT_EQ(resize(image, 40, 30, Filter::bicubic).pixels,
            plain_rows(plain_columns(image, 30, Filter::bicubic), 40, Filter::bicubic).pixels);
  // 90 - 50 = 2 * (60 - 40): rows first.
  EXPECT_EQ(resize(image, 40, 50, Filter::bicubic).pixels,
            plain_columns(plain_rows(image, 40, Filter::bicubic), 50, Filter::bicubic).pixels);
  EXPECT_EQ(resize(image, 120, 140, Filter::bicubic).pixels,
            plain_columns(plain_rows(image, 120, Filter::bicubic), 140, Filter::bicubic).pixels);
}

TEST(Resample, WeightsSumToOne) {
  for (const Filter filter : filters) {
    for (const auto& [from, to] : {std::pair<std::int64_t, std::int64_t>{1, 9}, {9, 1}, {640, 224}, {33, 224}, {1000, 3}}) {
      const Taps taps = make_taps(from, to, filter);
      for (std::size_t i = 0; i < taps.firsts.size(); ++i) {
        std::int64_t sum = 0;
        for (std::int64_t t = 0; t < taps.counts[i]; ++t)
          sum += taps.weights[i * static_cast<std::size_t>(taps.stride) + static_cast<std::size_t>(t)];
        EXPECT_NEAR(static_cast<double>(sum), std::ldexp(1.0, vision::weight_bits), static_cast<double>(taps.counts[i]));
        EXPECT_GE(taps.firsts[i], 0);
        EXPECT_LE(taps.firsts[i] + taps.counts[i], from);
      }
    }
  }
}

TEST(Resample, AFlatPictureStaysFlat) {
  Image image{37, 21, std::vector<std::uint8_t>(37 * 21 * 3, 200)};
  for (const Filter filter : {Filter::nearest, Filter::bilinear, Filter::bicubic, Filter::lanczos, Filter::box, Filter::hamming}) {
    const Image resized = resize(image, 50, 8, filter);
    EXPECT_EQ(resized.pixels, std::vector<std::uint8_t>(50 * 8 * 3, 200));
  }
}

TEST(Resample, NearestTakesThePixelUnderTheCentre) {
  Image image{4, 1, {}};
  for (int x = 0; x < 4; ++x) image.pixels.insert(image.pixels.end(), 3, static_cast<std::uint8_t>(10 * x));
  const Image half = resize(image, 2, 1, Filter::nearest);
  EXPECT_EQ(half.pixels, (std::vector<std::uint8_t>{10, 10, 10, 30, 30, 30}));
}

}  // namespace
}  // namespace mmtune::test
