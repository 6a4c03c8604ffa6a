#pragma once
// The discrete Fourier transform of real frames in double precision, for spectrograms that must agree with numpy's in their quietest bins.

#include <complex>
#include <cstddef>
#include <span>
#include <vector>

namespace mmtune::audio {

/// Mixed-radix Cooley–Tukey (1965). The size is positive; small prime factors make it fast.
class Fft {
 public:
  explicit Fft(std::size_t size);
  std::size_t size() const { return size_; }
  /// Bins 0 to size/2 of `input` [size]; `output` has size/2 + 1 entries.
  void operator()(std::span<const double> input, std::span<std::complex<double>> output);

 private:
  void transform(std::size_t level, std::size_t stride, const double* input, std::complex<double>* output);

  std::size_t size_;
  std::vector<std::size_t> factors_;             ///< their product is the size
  std::vector<std::complex<double>> turns_;      ///< e^(−2πi k / size)
  std::vector<std::complex<double>> work_;       ///< the transform of one frame
  std::vector<std::complex<double>> butterfly_;  ///< as many as the largest factor
};

}  // namespace mmtune::audio
