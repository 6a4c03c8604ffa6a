#include "audio/resample.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

#include "core/error.h"

namespace mmtune::audio {

namespace {

constexpr double zero_crossings = 64.0;
constexpr double rolloff = 0.9475937167399596;
constexpr double beta = 14.769656459379492;

/// The modified Bessel function of the first kind and order 0, by its power series; `x` is at most `beta`.
double bessel_i0(double x) {
  double sum = 1.0, term = 1.0;
  for (int k = 1; term > sum * 1e-17; ++k) {
    const double factor = x / (2.0 * k);
    term *= factor * factor;
    sum += term;
  }
  return sum;
}

/// sinc(u) under its window; `u` counts zero crossings.
double windowed_sinc(double u) {
  const double share = u / zero_crossings;
  if (std::abs(share) >= 1.0) return 0.0;
  static const double scale = 1.0 / bessel_i0(beta);
  const double window = bessel_i0(beta * std::sqrt(1.0 - share * share)) * scale;
  const double angle = std::numbers::pi * u;
  return window * (angle == 0.0 ? 1.0 : std::sin(angle) / angle);
}

}  // namespace

Sound resample(Sound sound, std::int64_t rate) {
  MMTUNE_ASSERT(rate > 0 && sound.rate > 0);
  if (sound.rate == rate) return sound;
  const std::int64_t common = std::gcd(sound.rate, rate);
  const std::int64_t from = sound.rate / common, to = rate / common;
  const auto count = static_cast<std::int64_t>(sound.samples.size());
  const std::int64_t outputs = (count * to + from - 1) / from;
  // In units of a sample of the sound: the zero crossings of the sinc are 1 / `slope` apart.
  const double slope = rolloff * std::min(1.0, static_cast<double>(to) / static_cast<double>(from));
  const auto reach = static_cast<std::int64_t>(std::ceil(zero_crossings / slope));

  Sound result{.rate = rate, .samples = std::vector<float>(static_cast<std::size_t>(outputs))};
  std::vector<double> taps(static_cast<std::size_t>(2 * reach + 1));
  // Outputs `to` apart lie at the same place between two samples and have the same taps, so that none need be kept.
  for (std::int64_t phase = 0; phase < std::min(to, outputs); ++phase) {
    const std::int64_t whole = phase * from / to;
    const double part = static_cast<double>(phase * from % to) / static_cast<double>(to);
    for (std::int64_t k = -reach; k <= reach; ++k)
      taps[static_cast<std::size_t>(k + reach)] = slope * windowed_sinc(slope * (static_cast<double>(k) - part));
    for (std::int64_t m = phase, centre = whole; m < outputs; m += to, centre += from) {
      const std::int64_t begin = std::max<std::int64_t>(centre - reach, 0), end = std::min(centre + reach + 1, count);
      double sum = 0.0;
      for (std::int64_t n = begin; n < end; ++n)
        sum += static_cast<double>(sound.samples[static_cast<std::size_t>(n)]) * taps[static_cast<std::size_t>(n - centre + reach)];
      result.samples[static_cast<std::size_t>(m)] = static_cast<float>(sum);
    }
  }
  return result;
}

}  // namespace mmtune::audio
