#include "audio/spectrogram.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <numbers>

#include "audio/fft.h"
#include "core/error.h"

namespace mmtune::audio {

namespace {

// Slaney's scale: 200/3 Hz a mel up to 1000 Hz, which is mel 15, then 27 mels a factor of 6.4.
constexpr double slaney_hertz = 1000.0, slaney_mel = 15.0, slaney_step = 27.0;
const double slaney_log = std::log(6.4);

/// `count` values from `first` to `last`, evenly spaced.
std::vector<double> spaced(double first, double last, std::int64_t count) {
  std::vector<double> values(static_cast<std::size_t>(count));
  const double step = (last - first) / static_cast<double>(count - 1);
  for (std::int64_t i = 0; i < count; ++i) values[static_cast<std::size_t>(i)] = first + step * static_cast<double>(i);
  values.back() = last;
  return values;
}

/// The waveform mirrored at both ends by `margin` samples; the sample at the end is not repeated.
std::vector<double> mirrored(std::span<const float> waveform, std::int64_t margin) {
  const auto count = static_cast<std::int64_t>(waveform.size());
  MMTUNE_ASSERT(count > margin);
  std::vector<double> result(static_cast<std::size_t>(count + 2 * margin));
  for (std::int64_t i = -margin; i < count + margin; ++i) {
    const std::int64_t from = i < 0 ? -i : i < count ? i : 2 * (count - 1) - i;
    result[static_cast<std::size_t>(i + margin)] = static_cast<double>(waveform[static_cast<std::size_t>(from)]);
  }
  return result;
}

double logarithm_of(double value, Logarithm logarithm) {
  switch (logarithm) {
    case Logarithm::natural:
      return std::log(value);
    case Logarithm::base10:
      return std::log10(value);
    case Logarithm::decibel:
      return 10.0 * std::log10(std::max(value, 1e-10));
  }
  MMTUNE_ASSERT(false);
  return 0;
}

/// Which bins a filter covers; the others weigh nothing.
struct Reach {
  std::size_t begin, end;
};

std::vector<Reach> reaches(std::span<const double> filters, std::size_t bins, std::size_t count) {
  std::vector<Reach> result(count, {0, 0});
  for (std::size_t f = 0; f < count; ++f) {
    for (std::size_t b = 0; b < bins; ++b) {
      if (filters[b * count + f] == 0.0) continue;
      if (result[f].end == 0) result[f].begin = b;
      result[f].end = b + 1;
    }
  }
  return result;
}

}  // namespace

double hertz_to_mel(double hertz, MelScale scale) {
  if (scale == MelScale::htk) return 2595.0 * std::log10(1.0 + hertz / 700.0);
  if (scale == MelScale::kaldi) return 1127.0 * std::log(1.0 + hertz / 700.0);
  if (hertz < slaney_hertz) return 3.0 * hertz / 200.0;
  return slaney_mel + std::log(hertz / slaney_hertz) * (slaney_step / slaney_log);
}

double mel_to_hertz(double mel, MelScale scale) {
  if (scale == MelScale::htk) return 700.0 * (std::pow(10.0, mel / 2595.0) - 1.0);
  if (scale == MelScale::kaldi) return 700.0 * (std::exp(mel / 1127.0) - 1.0);
  if (mel < slaney_mel) return 200.0 * mel / 3.0;
  return slaney_hertz * std::exp(slaney_log / slaney_step * (mel - slaney_mel));
}

std::vector<double> mel_filters(const MelBank& bank) {
  MMTUNE_ASSERT(bank.bins >= 2 && bank.filters >= 1 && bank.low < bank.high);
  // The corners of the triangles, and the bins, on the axis on which the sides are straight.
  std::vector<double> corners = spaced(hertz_to_mel(bank.low, bank.scale), hertz_to_mel(bank.high, bank.scale), bank.filters + 2);
  std::vector<double> bins;
  if (bank.in_mel_space) {
    const double width = static_cast<double>(bank.rate) / static_cast<double>((bank.bins - 1) * 2);
    for (std::int64_t b = 0; b < bank.bins; ++b) bins.push_back(hertz_to_mel(width * static_cast<double>(b), bank.scale));
  } else {
    for (double& corner : corners) corner = mel_to_hertz(corner, bank.scale);
    bins = spaced(0.0, static_cast<double>(bank.rate - bank.rate % 2) / 2.0, bank.bins);
  }
  const auto count = static_cast<std::size_t>(bank.filters);
  std::vector<double> filters(bins.size() * count);
  for (std::size_t b = 0; b < bins.size(); ++b) {
    for (std::size_t f = 0; f < count; ++f) {
      const double rising = (bins[b] - corners[f]) / (corners[f + 1] - corners[f]);
      const double falling = (corners[f + 2] - bins[b]) / (corners[f + 2] - corners[f + 1]);
      double& weight = filters[b * count + f];
      weight = std::max(0.0, std::min(rising, falling));
      if (bank.area_norm) weight *= 2.0 / (corners[f + 2] - corners[f]);
    }
  }
  return filters;
}

std::vector<double> window_of(Window window, std::int64_t length, bool periodic) {
  MMTUNE_ASSERT(length > 1);
  std::vector<double> values(static_cast<std::size_t>(length));
  const auto span = static_cast<double>(periodic ? length : length - 1);
  for (std::int64_t i = 0; i < length; ++i) {
    const double hann = 0.5 - 0.5 * std::cos(2.0 * std::numbers::pi * static_cast<double>(i) / span);
    values[static_cast<std::size_t>(i)] = window == Window::hann ? hann : std::pow(std::max(hann, 0.0), 0.85);
  }
  return values;
}

std::int64_t frame_count(std::int64_t samples, const SpectrogramOptions& options) {
  const auto frame = static_cast<std::int64_t>(options.window.size());
  const std::int64_t length = options.center ? samples + frame / 2 * 2 : samples;
  return length < frame ? 0 : 1 + (length - frame) / options.hop;
}

std::vector<float> log_mel_spectrogram(std::span<const float> waveform, const SpectrogramOptions& options) {
  const std::size_t frame = options.window.size(), size = static_cast<std::size_t>(options.fft), bins = size / 2 + 1;
  MMTUNE_ASSERT(frame > 1 && frame <= size && options.hop > 0 && options.filters.size() % bins == 0);
  const std::size_t count = options.filters.size() / bins;
  const auto frames = static_cast<std::size_t>(frame_count(static_cast<std::int64_t>(waveform.size()), options));
  const std::vector<double> samples =
      options.center ? mirrored(waveform, static_cast<std::int64_t>(frame / 2)) : std::vector<double>(waveform.begin(), waveform.end());
  const std::vector<Reach> reach = reaches(options.filters, bins, count);

  Fft fft(size);
  std::vector<double> buffer(size), power(bins);
  std::vector<std::complex<double>> spectrum(bins);
  std::vector<float> result(frames * count);
  for (std::size_t t = 0; t < frames; ++t) {
    const double* begin = samples.data() + t * static_cast<std::size_t>(options.hop);
    std::copy_n(begin, frame, buffer.begin());
    if (options.remove_mean) {
      double mean = 0.0;
      for (std::size_t i = 0; i < frame; ++i) mean += buffer[i];
      mean /= static_cast<double>(frame);
      for (std::size_t i = 0; i < frame; ++i) buffer[i] -= mean;
    }
    if (options.preemphasis != 0.0) {
      for (std::size_t i = frame - 1; i > 0; --i) buffer[i] -= options.preemphasis * buffer[i - 1];
      buffer[0] *= 1.0 - options.preemphasis;
    }
    for (std::size_t i = 0; i < frame; ++i) buffer[i] *= options.window[i];
    fft(buffer, spectrum);
    for (std::size_t b = 0; b < bins; ++b) {
      const std::complex<double> rounded(static_cast<float>(spectrum[b].real()), static_cast<float>(spectrum[b].imag()));
      power[b] = std::norm(rounded);
    }
    for (std::size_t f = 0; f < count; ++f) {
      double sum = 0.0;
      for (std::size_t b = reach[f].begin; b < reach[f].end; ++b) sum += power[b] * options.filters[b * count + f];
      result[t * count + f] = static_cast<float>(logarithm_of(std::max(sum, options.floor), options.logarithm));
    }
  }
  return result;
}

}  // namespace mmtune::audio
