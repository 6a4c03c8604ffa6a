#pragma once
// Sounds at another sample rate.

#include <cstdint>
#include <vector>

#include "audio/sound.h"

namespace mmtune::audio {

/// Band-limited interpolation by a Kaiser-windowed sinc (J. O. Smith, "Digital Audio Resampling", ccrma.stanford.edu/~jos/resample):
///   y[m] = Σ_n x[n] · (2f / R) · sinc(2f t) · I0(β √(1 − (2f t / 64)²)) / I0(β),   t = n / R − m / r,   |2f t| < 64,
/// for rates R (of the sound) and r; f = 0.9476 · min(R, r) / 2 is the cut-off and β = 14.77, which leave everything above the lower
/// Nyquist frequency 100 dB down. Outside the sound x is zero. The result has ⌈n · r / R⌉ samples; a sound of that rate comes back as it
/// is. These are the numbers that librosa and torchaudio name "kaiser_best". `rate` is positive.
Sound resample(Sound sound, std::int64_t rate);

}  // namespace mmtune::audio
