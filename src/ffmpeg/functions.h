#pragma once
// What libmmtune_ffmpeg.so offers the program: decoding a video, and the sound of one, from memory behind plain functions, so that only
// this library knows FFmpeg's headers, and only a program that meets such a file loads it.

#include <cstddef>
#include <cstdint>

extern "C" {

/// Called while a video is decoded; all three may throw.
struct MmtuneVideoSink {
  void* user;
  /// Once, before all frames: how many the file says it has, at least 1.
  void (*counted)(void* user, std::int64_t count);
  /// Whether frame `number` is to be converted.
  int (*wants)(void* user, std::int64_t number);
  /// A frame that is wanted, or the last one where a wanted one was not reached: width * height * 3 bytes, top line first.
  void (*take)(void* user, std::int64_t number, const unsigned char* rgb, int width, int height);
};

/// Called while a sound is decoded; both may throw.
struct MmtuneSoundSink {
  void* user;
  /// Once, before all samples.
  void (*opened)(void* user, std::int64_t rate, std::int64_t channels);
  /// The next samples, the mean of the channels; full scale is 1.
  void (*take)(void* user, const float* samples, std::size_t count);
};

/// Each function gives 0, or not, with the reason in `message` of `capacity` bytes.
struct MmtuneFfmpeg {
  int abi;  ///< mmtune_ffmpeg_abi of the library
  int (*video)(const unsigned char* bytes, std::size_t size, std::int64_t max_pixels, std::int64_t max_frames, const MmtuneVideoSink* sink,
               char* message, std::size_t capacity);
  int (*sound)(const unsigned char* bytes, std::size_t size, const MmtuneSoundSink* sink, char* message, std::size_t capacity);
};

const MmtuneFfmpeg* mmtune_ffmpeg_open();
}

inline constexpr int mmtune_ffmpeg_abi = 2;
inline constexpr const char* mmtune_ffmpeg_library = "libmmtune_ffmpeg.so";
