#pragma once
// Mel scales, filter banks and spectrograms, in the arithmetic of transformers.audio_utils: double precision, spectra rounded to complex64.

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace mmtune::audio {

/// htk: 2595 log10(1 + f/700); kaldi: 1127 ln(1 + f/700); slaney: linear below 1 kHz, logarithmic above (Auditory Toolbox).
enum class MelScale { htk, kaldi, slaney };
double hertz_to_mel(double hertz, MelScale scale);
double mel_to_hertz(double mel, MelScale scale);

struct MelBank {
  std::int64_t bins = 0;     ///< of the spectrum, fft / 2 + 1; at least 2
  std::int64_t filters = 0;  ///< at least 1
  double low = 0, high = 0;  ///< Hz; low < high
  std::int64_t rate = 0;
  MelScale scale = MelScale::htk;
  bool area_norm = false;     ///< every triangle divided by half its width in Hz ("slaney")
  bool in_mel_space = false;  ///< triangles straight on the mel axis, as Kaldi's, and not on the axis in Hz
};
/// Triangular filters [bins][filters], row-major.
std::vector<double> mel_filters(const MelBank& bank);

enum class Window { hann, povey };
/// Periodic (for spectral analysis) or symmetric; povey is a Hann window to the power of 0.85 (Kaldi's).
std::vector<double> window_of(Window window, std::int64_t length, bool periodic);

enum class Logarithm { natural, base10, decibel };

struct SpectrogramOptions {
  std::span<const double> window;  ///< its length is a frame's
  std::int64_t hop = 0;
  std::int64_t fft = 0;  ///< at least a frame; the rest is zeros
  bool center = false;   ///< the sound mirrored at both ends by half a frame, which it must be longer than
  double preemphasis = 0;
  bool remove_mean = false;         ///< of every frame, before the pre-emphasis
  std::span<const double> filters;  ///< as of mel_filters, of fft / 2 + 1 bins
  double floor = 1e-10;             ///< the least value of a filter's output
  Logarithm logarithm = Logarithm::natural;
};

/// How many frames a sound of `samples` gives; 0 where it is shorter than one.
std::int64_t frame_count(std::int64_t samples, const SpectrogramOptions& options);
/// Logarithms of the filters' power outputs [frames][filters], row-major. The waveform is as long as frame_count() needs it for one frame.
std::vector<float> log_mel_spectrogram(std::span<const float> waveform, const SpectrogramOptions& options);

}  // namespace mmtune::audio
