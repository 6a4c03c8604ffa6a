#include "vision/corruptions.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/nearest.h"
#include "vision/encode_jpeg.h"

namespace mmtune::vision {

namespace {

constexpr std::array<std::pair<CorruptionKind, std::string_view>, 11> kNames = {{{CorruptionKind::gaussian_noise, "gaussian_noise"},
                                                                                 {CorruptionKind::shot_noise, "shot_noise"},
                                                                                 {CorruptionKind::impulse_noise, "impulse_noise"},
                                                                                 {CorruptionKind::defocus_blur, "defocus_blur"},
                                                                                 {CorruptionKind::gaussian_blur, "gaussian_blur"},
                                                                                 {CorruptionKind::motion_blur, "motion_blur"},
                                                                                 {CorruptionKind::brightness, "brightness"},
                                                                                 {CorruptionKind::contrast, "contrast"},
                                                                                 {CorruptionKind::saturation, "saturation"},
                                                                                 {CorruptionKind::jpeg, "jpeg"},
                                                                                 {CorruptionKind::pixelate, "pixelate"}}};

using Strengths = std::array<double, 5>;

/// SplitMix64, and a normal variable as the sum of twelve uniform ones: integers only, so that every machine draws the same.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint32_t next() {
    state_ += 0x9e3779b97f4a7c15ULL;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return static_cast<std::uint32_t>((z ^ (z >> 31)) >> 32);
  }
  double uniform() { return next() / 4294967296.0; }
  double normal() {
    std::int64_t sum = 0;
    for (int i = 0; i < 12; ++i) sum += next();
    return static_cast<double>(sum - 6 * (std::int64_t{1} << 32)) / 4294967296.0;
  }

 private:
  std::uint64_t state_;
};

std::uint8_t to_byte(double value) {
  return static_cast<std::uint8_t>(std::clamp(std::floor(value + 0.5), 0.0, 255.0));
}

/// Every value by a function of itself and its channel.
template <typename Change>
Image changed(Image image, Change change) {
  for (std::size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = to_byte(change(image.pixels[i], i % 3));
  return image;
}

/// A point of a blur's kernel.
struct Tap {
  std::int64_t x, y;
  double weight;
};

/// The mean of the taps; what lies outside is the nearest pixel of the border.
Image blurred(const Image& image, const std::vector<Tap>& taps) {
  double total = 0;
  for (const Tap& tap : taps) total += tap.weight;
  Image out = image;
  for (std::int64_t y = 0; y < image.height; ++y) {
    for (std::int64_t x = 0; x < image.width; ++x) {
      std::array<double, 3> sum{};
      for (const Tap& tap : taps) {
        const std::int64_t row = std::clamp<std::int64_t>(y + tap.y, 0, image.height - 1);
        const std::int64_t column = std::clamp<std::int64_t>(x + tap.x, 0, image.width - 1);
        const std::uint8_t* pixel = image.pixels.data() + (row * image.width + column) * 3;
        for (std::size_t c = 0; c < 3; ++c) sum[c] += tap.weight * pixel[c];
      }
      std::uint8_t* target = out.pixels.data() + (y * image.width + x) * 3;
      for (std::size_t c = 0; c < 3; ++c) target[c] = to_byte(sum[c] / total);
    }
  }
  return out;
}

/// A share of the shorter side, but enough to be seen on a small picture.
double width_of(const Image& image, double share, int severity) {
  return std::max(share * static_cast<double>(std::min(image.width, image.height)), 0.4 + 0.2 * severity);
}

/// The border of the disc counts by how much of a pixel lies inside.
std::vector<Tap> disc(double radius) {
  std::vector<Tap> taps;
  const auto reach = static_cast<std::int64_t>(std::ceil(radius + 0.5));
  for (std::int64_t y = -reach; y <= reach; ++y) {
    for (std::int64_t x = -reach; x <= reach; ++x) {
      const double inside = radius + 0.5 - std::sqrt(static_cast<double>(x * x + y * y));
      if (inside > 0) taps.push_back({x, y, std::min(inside, 1.0)});
    }
  }
  return taps;
}

Image gaussian_blur(const Image& image, double sigma) {
  std::vector<Tap> across, down;
  const auto reach = static_cast<std::int64_t>(std::ceil(3 * sigma));
  for (std::int64_t i = -reach; i <= reach; ++i) {
    const double weight = std::exp(-static_cast<double>(i * i) / (2 * sigma * sigma));
    across.push_back({i, 0, weight});
    down.push_back({0, i, weight});
  }
  return blurred(blurred(image, std::move(across)), std::move(down));
}

std::vector<Tap> line(double length, double angle) {
  std::vector<Tap> taps;
  const int steps = std::max(2, static_cast<int>(std::ceil(length * 2)));
  for (int i = 0; i <= steps; ++i) {
    // A point between pixels counts for the four around it.
    const double at = (static_cast<double>(i) / steps - 0.5) * length;
    const double x = at * std::cos(angle), y = at * std::sin(angle);
    const double left = std::floor(x), top = std::floor(y);
    for (const int dx : {0, 1}) {
      for (const int dy : {0, 1}) {
        const double weight = (dx == 0 ? 1 - (x - left) : x - left) * (dy == 0 ? 1 - (y - top) : y - top);
        if (weight > 0) taps.push_back({static_cast<std::int64_t>(left) + dx, static_cast<std::int64_t>(top) + dy, weight});
      }
    }
  }
  return taps;
}

Image less_contrast(const Image& image, double kept) {
  std::array<double, 3> mean{};
  for (std::size_t i = 0; i < image.pixels.size(); ++i) mean[i % 3] += image.pixels[i];
  for (double& value : mean) value /= static_cast<double>(image.pixels.size()) / 3.0;
  return changed(image, [&](std::uint8_t value, std::size_t channel) { return mean[channel] + kept * (value - mean[channel]); });
}

Image less_saturated(Image image, double kept) {
  for (std::size_t i = 0; i < image.pixels.size(); i += 3) {
    std::uint8_t* pixel = image.pixels.data() + i;
    const double grey = 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2];
    for (std::size_t c = 0; c < 3; ++c) pixel[c] = to_byte(grey + kept * (pixel[c] - grey));
  }
  return image;
}

Image through_jpeg(const Image& image, int quality) {
  return decode_image(encode_jpeg(image, quality), "corruption");
}

Image pixelated(const Image& image, double share) {
  const auto fewer = [&](std::int64_t size) { return std::max<std::int64_t>(1, std::llround(share * static_cast<double>(size))); };
  const Image small = resize(image, fewer(image.width), fewer(image.height), Filter::box);
  return resize(small, image.width, image.height, Filter::nearest);
}

}  // namespace

Corruption parse_corruption(std::string_view text, const std::string& where) {
  const std::size_t colon = text.rfind(':');
  const std::string_view name = text.substr(0, colon);
  const auto* const found = std::find_if(kNames.begin(), kNames.end(), [&](const auto& one) { return one.second == name; });
  if (found == kNames.end()) {
    std::string all;
    for (const std::string& known : corruption_names()) all += (all.empty() ? "" : ", ") + known;
    const std::vector<std::string> names = corruption_names();
    const auto near = nearest(name, names);
    throw UsageError({.what = "unknown corruption '" + printable(name, 40) + "'",
                      .where = where,
                      .expected = all,
                      .hint = near ? "did you mean '" + std::string(*near) + "'?" : ""});
  }
  const std::string_view severity = colon == std::string_view::npos ? std::string_view() : text.substr(colon + 1);
  if (severity.size() != 1 || severity[0] < '1' || severity[0] > '5') {
    throw UsageError({.what = "a corruption needs its severity",
                      .where = where,
                      .expected = std::string(name) + ":1 to " + std::string(name) + ":5",
                      .got = "'" + printable(text, 40) + "'"});
  }
  return {found->first, severity[0] - '0'};
}

std::string describe(const Corruption& corruption) {
  const auto* const found = std::find_if(kNames.begin(), kNames.end(), [&](const auto& one) { return one.first == corruption.kind; });
  return std::string(found->second) + ":" + std::to_string(corruption.severity);
}

std::vector<std::string> corruption_names() {
  std::vector<std::string> names;
  for (const auto& [kind, name] : kNames) names.emplace_back(name);
  return names;
}

Image corrupted(const Image& image, const Corruption& corruption, std::uint64_t seed) {
  MMTUNE_ASSERT(corruption.severity >= 1 && corruption.severity <= 5);
  const auto step = static_cast<std::size_t>(corruption.severity - 1);
  const auto strength = [&](const Strengths& by_severity) { return by_severity[step]; };
  const auto width = [&](const Strengths& shares) { return width_of(image, strength(shares), corruption.severity); };
  Random random(seed);
  switch (corruption.kind) {
    case CorruptionKind::gaussian_noise: {
      const double sigma = strength({10, 18, 28, 42, 60});
      return changed(image, [&](std::uint8_t value, std::size_t) { return value + sigma * random.normal(); });
    }
    case CorruptionKind::shot_noise: {
      const double photons = strength({60, 25, 12, 6, 3});  // that a white pixel takes
      return changed(image, [&](std::uint8_t value, std::size_t) { return value + std::sqrt(value * 255.0 / photons) * random.normal(); });
    }
    case CorruptionKind::impulse_noise: {
      const double share = strength({0.02, 0.05, 0.09, 0.16, 0.25});
      return changed(image, [&](std::uint8_t value, std::size_t) {
        const double drawn = random.uniform();
        return drawn >= share ? static_cast<double>(value) : drawn < share / 2 ? 0.0 : 255.0;
      });
    }
    case CorruptionKind::defocus_blur:
      return blurred(image, disc(width({0.008, 0.013, 0.02, 0.03, 0.04})));
    case CorruptionKind::gaussian_blur:
      return gaussian_blur(image, width({0.005, 0.009, 0.014, 0.021, 0.03}));
    case CorruptionKind::motion_blur:
      return blurred(image, line(2 * width({0.02, 0.035, 0.05, 0.075, 0.1}), random.uniform() * std::numbers::pi));
    case CorruptionKind::brightness: {
      const double more = 255 * strength({0.1, 0.2, 0.3, 0.4, 0.5});
      return changed(image, [&](std::uint8_t value, std::size_t) { return value + more; });
    }
    case CorruptionKind::contrast:
      return less_contrast(image, strength({0.75, 0.6, 0.45, 0.3, 0.15}));
    case CorruptionKind::saturation:
      return less_saturated(image, strength({0.75, 0.55, 0.35, 0.15, 0}));
    case CorruptionKind::jpeg:
      return through_jpeg(image, static_cast<int>(strength({25, 18, 12, 8, 4})));
    case CorruptionKind::pixelate:
      return pixelated(image, strength({1.0 / 2, 1.0 / 3, 1.0 / 4, 1.0 / 6, 1.0 / 8}));
  }
  return image;
}

}  // namespace mmtune::vision
