#pragma once
// Decoded sounds and the decoder that makes them from bytes: WAV, FLAC, Ogg by libsndfile; the sound of videos by FFmpeg's libraries.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace mmtune::audio {

/// One channel of samples; full scale is 1.
struct Sound {
  std::int64_t rate = 0;  ///< samples a second
  std::vector<float> samples;
};

struct DecodeLimits {
  std::int64_t max_frames = std::int64_t{1} << 26;  ///< 70 minutes at 16 kHz, 256 MiB
  std::int64_t max_channels = 8;
  std::int64_t min_rate = 1'000;
  std::int64_t max_rate = 384'000;
};

/// Decodes WAV (integer and float samples, A-law, µ-law, ADPCM; RIFX and RF64 too), FLAC and Ogg (Vorbis, Opus, FLAC); the format is told
/// by the content, and the first sound of a video (MP4 and M4A, Matroska and WebM, AVI). Integers are divided by their full scale, as the
/// `soundfile` package does, and channels are averaged. `where` names the file in errors. Throws Error: another format, damage or
/// truncation (less is there than the header declares), no samples, more channels than allowed, a rate outside the limits, more frames than
/// allowed (a declared length before anything is allocated), samples that are not finite, a video in a build without FFmpeg.
Sound decode_sound(std::span<const std::byte> bytes, const std::string& where, const DecodeLimits& limits = {});

}  // namespace mmtune::audio
