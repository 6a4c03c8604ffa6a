#include "audio/fft.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace mmtune::audio {

namespace {

std::vector<std::size_t> factors_of(std::size_t size) {
  std::vector<std::size_t> factors;
  for (std::size_t factor = 4; size > 1;) {
    if (size % factor == 0) {
      factors.push_back(factor);
      size /= factor;
    } else {
      factor = factor == 4 ? 2 : factor == 3 ? 5 : factor + 1;
    }
  }
  return factors;
}

}  // namespace

Fft::Fft(std::size_t size) : size_(size), factors_(factors_of(size)), turns_(size), work_(size) {
  MMTUNE_ASSERT(size > 0);
  for (std::size_t k = 0; k < size; ++k)
    turns_[k] = std::polar(1.0, -2.0 * std::numbers::pi * static_cast<double>(k) / static_cast<double>(size));
  butterfly_.resize(factors_.empty() ? 1 : *std::max_element(factors_.begin(), factors_.end()));
}

void Fft::transform(std::size_t level, std::size_t stride, const double* input, std::complex<double>* output) {
  if (level == factors_.size()) {
    *output = *input;
    return;
  }
  const std::size_t radix = factors_[level], part = size_ / stride / radix;
  for (std::size_t r = 0; r < radix; ++r) transform(level + 1, stride * radix, input + r * stride, output + r * part);
  for (std::size_t k = 0; k < part; ++k) {
    for (std::size_t r = 0; r < radix; ++r) butterfly_[r] = output[r * part + k] * turns_[r * k * stride];
    for (std::size_t q = 0; q < radix; ++q) {
      std::complex<double> sum = butterfly_[0];
      // One factor is size / radix · q turns from the next, modulo a whole one.
      const std::size_t step = size_ / radix * q;
      std::size_t turn = 0;
      for (std::size_t r = 1; r < radix; ++r) {
        turn += step;
        if (turn >= size_) turn -= size_;
        sum += butterfly_[r] * turns_[turn];
      }
      output[q * part + k] = sum;
    }
  }
}

void Fft::operator()(std::span<const double> input, std::span<std::complex<double>> output) {
  MMTUNE_ASSERT(input.size() == size_ && output.size() == size_ / 2 + 1);
  transform(0, 1, input.data(), work_.data());
  std::copy_n(work_.begin(), output.size(), output.begin());
}

}  // namespace mmtune::audio
