#include "vision/resample.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace mmtune::vision {

namespace {

// The filter's value at distance x, and the distance from which on it is zero.
using FilterFunction = double (*)(double);
struct FilterShape {
  FilterFunction value;
  double support;
};

double box_value(double x) {
  return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
}

double triangle_value(double x) {
  const double distance = std::abs(x);
  return distance < 1.0 ? 1.0 - distance : 0.0;
}

double hamming_value(double x) {
  const double distance = std::abs(x);
  if (distance == 0.0) return 1.0;
  if (distance >= 1.0) return 0.0;
  const double angle = distance * std::numbers::pi;
  // Pillow's window constants have float precision.
  constexpr double base = 0.54F;
  constexpr double swing = 0.46F;
  return std::sin(angle) / angle * (base + swing * std::cos(angle));
}

// Keys' cubic convolution with a = -1/2.
double cubic_value(double x) {
  constexpr double a = -0.5;
  const double distance = std::abs(x);
  if (distance < 1.0) return ((a + 2.0) * distance - (a + 3.0)) * distance * distance + 1.0;
  if (distance < 2.0) return (((distance - 5.0) * distance + 8.0) * distance - 4.0) * a;
  return 0.0;
}

double sinc(double x) {
  if (x == 0.0) return 1.0;
  const double angle = x * std::numbers::pi;
  return std::sin(angle) / angle;
}

double lanczos_value(double x) {
  return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0;
}

FilterShape shape_of(Filter filter) {
  switch (filter) {
    case Filter::box:
      return {box_value, 0.5};
    case Filter::bilinear:
      return {triangle_value, 1.0};
    case Filter::hamming:
      return {hamming_value, 1.0};
    case Filter::bicubic:
      return {cubic_value, 2.0};
    case Filter::lanczos:
      return {lanczos_value, 3.0};
    case Filter::nearest:
      break;
  }
  MMTUNE_ASSERT(filter != Filter::nearest);
  return {};
}

// Round half away from zero.
std::int32_t to_fixed_point(double weight) {
  const double scaled = weight * (1 << weight_bits);
  return static_cast<std::int32_t>(weight < 0 ? scaled - 0.5 : scaled + 0.5);
}

// The source position of every target position; -1 where rounding leaves the picture.
std::vector<std::int64_t> nearest_positions(std::int64_t in_size, std::int64_t out_size) {
  const double step = static_cast<double>(in_size) / static_cast<double>(out_size);
  std::vector<std::int64_t> positions(static_cast<std::size_t>(out_size));
  // Pillow adds the step up instead of multiplying it; the accumulated rounding decides ties.
  double at = step * 0.5;
  for (auto& position : positions) {
    position = static_cast<std::int64_t>(at);
    if (position >= in_size) position = -1;
    at += step;
  }
  return positions;
}

Image resize_nearest(const Image& image, std::int64_t width, std::int64_t height) {
  const auto columns = nearest_positions(image.width, width);
  const auto rows = nearest_positions(image.height, height);
  Image out{width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(width * height * 3))};
  std::uint8_t* target = out.pixels.data();
  for (const std::int64_t row : rows) {
    for (const std::int64_t column : columns) {
      if (row >= 0 && column >= 0) std::copy_n(image.pixels.data() + (row * image.width + column) * 3, 3, target);
      target += 3;
    }
  }
  return out;
}

// Pillow 13 runs the vertical pass first where the height loses more than twice the pixels that the width loses. The order shows, because
// each pass rounds. Older versions always began with the horizontal one.
bool columns_first(const Image& image, std::int64_t width, std::int64_t height) {
  return height < image.height && image.height - height > 2 * (image.width - width);
}

}  // namespace

Taps make_taps(std::int64_t in_size, std::int64_t out_size, Filter filter) {
  const FilterShape shape = shape_of(filter);
  const double scale = static_cast<double>(in_size) / static_cast<double>(out_size);
  const double stretch = std::max(scale, 1.0);
  const double support = shape.support * stretch;
  const double inverse_stretch = 1.0 / stretch;

  Taps taps;
  taps.stride = std::min<std::int64_t>(static_cast<std::int64_t>(std::ceil(support)) * 2 + 1, in_size);
  taps.firsts.resize(static_cast<std::size_t>(out_size));
  taps.counts.resize(static_cast<std::size_t>(out_size));
  taps.weights.resize(static_cast<std::size_t>(out_size * taps.stride));
  std::vector<double> values(static_cast<std::size_t>(taps.stride));
  for (std::int64_t i = 0; i < out_size; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const auto first = std::max<std::int64_t>(static_cast<std::int64_t>(std::trunc(center - support + 0.5)), 0);
    const auto end = std::min<std::int64_t>(static_cast<std::int64_t>(std::trunc(center + support + 0.5)), in_size);
    const std::int64_t count = end - first;
    MMTUNE_ASSERT(count >= 0 && count <= taps.stride);
    double sum = 0.0;
    for (std::int64_t t = 0; t < count; ++t) {
      const double value = shape.value((static_cast<double>(t + first) - center + 0.5) * inverse_stretch);
      values[static_cast<std::size_t>(t)] = value;
      sum += value;
    }
    std::int32_t* weights = taps.weights.data() + i * taps.stride;
    for (std::int64_t t = 0; t < count; ++t) {
      const double value = values[static_cast<std::size_t>(t)];
      weights[t] = to_fixed_point(sum != 0.0 ? value / sum : value);
    }
    taps.firsts[static_cast<std::size_t>(i)] = first;
    taps.counts[static_cast<std::size_t>(i)] = count;
  }
  return taps;
}

Image resize(const Image& image, std::int64_t width, std::int64_t height, Filter filter) {
  MMTUNE_ASSERT(width > 0 && height > 0 && image.width > 0 && image.height > 0);
  MMTUNE_ASSERT(image.pixels.size() == static_cast<std::size_t>(image.width * image.height * 3));
  if (width == image.width && height == image.height) return image;
  if (filter == Filter::nearest) return resize_nearest(image, width, height);

  Image out{width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(width * height * 3))};
  if (height == image.height) {
    resample_rows(image.pixels.data(), image.width, image.height, make_taps(image.width, width, filter), out.pixels.data());
    return out;
  }
  const Taps vertical = make_taps(image.height, height, filter);
  if (width == image.width) {
    resample_columns(image.pixels.data(), image.width * 3, 0, vertical, out.pixels.data());
    return out;
  }
  const Taps horizontal = make_taps(image.width, width, filter);
  if (columns_first(image, width, height)) {
    std::vector<std::uint8_t> lowered(static_cast<std::size_t>(image.width * height * 3));
    resample_columns(image.pixels.data(), image.width * 3, 0, vertical, lowered.data());
    resample_rows(lowered.data(), image.width, height, horizontal, out.pixels.data());
    return out;
  }
  // Only the rows that the second pass reads.
  const std::int64_t first_row = vertical.firsts.front();
  const std::int64_t rows = vertical.firsts.back() + vertical.counts.back() - first_row;
  std::vector<std::uint8_t> narrowed(static_cast<std::size_t>(rows * width * 3));
  resample_rows(image.pixels.data() + first_row * image.width * 3, image.width, rows, horizontal, narrowed.data());
  resample_columns(narrowed.data(), width * 3, first_row, vertical, out.pixels.data());
  return out;
}

}  // namespace mmtune::vision
