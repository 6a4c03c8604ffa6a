#pragma once
// What libmmtune_video.so offers the program: decoding a video from memory behind one plain function, so that only this library knows
// FFmpeg's headers, and only a program that meets a video file loads it.

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

struct MmtuneVideo {
  int abi;  ///< mmtune_video_abi of the library
  /// 0, or not, with the reason in `message` of `capacity` bytes.
  int (*decode)(const unsigned char* bytes, std::size_t size, std::int64_t max_pixels, std::int64_t max_frames, const MmtuneVideoSink* sink,
                char* message, std::size_t capacity);
};

const MmtuneVideo* mmtune_video_open();
}

inline constexpr int mmtune_video_abi = 1;
inline constexpr const char* mmtune_video_library = "libmmtune_video.so";
