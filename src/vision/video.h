#pragma once
// Videos as a few pictures, spread evenly over their length: a folder with a picture a frame, or a file that FFmpeg's libraries decode.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "vision/image.h"

namespace mmtune::vision {

/// The middles of `wanted` equal parts of `count` > 0 frames, as numbers of frames; where there are fewer frames, some occur several times.
std::vector<std::int64_t> spread_frames(std::int64_t count, std::int64_t wanted);

/// The pictures (JPEG, PNG, WebP) right in a folder, by name: the frames of a video that was taken apart. Throws Error: no folder, none.
std::vector<std::filesystem::path> frame_files(const std::filesystem::path& folder);

struct VideoLimits {
  std::int64_t max_pixels = std::int64_t{1} << 25;  ///< of a frame
  std::int64_t max_frames = 500'000;                ///< some four hours
};

/// Decodes the first video stream of a file (MP4, Matroska, WebM, AVI, MPEG and a few others, told by the content) and hands over `wanted`
/// frames as spread_frames() chooses them, each as 8-bit RGB, one at a time. Nothing but `bytes` is read, whatever the file refers to.
/// Rotation that a file only recommends is not applied. `where` names the file in errors. Throws Error: no such stream, damage, sizes over
/// the limits, or a build without FFmpeg.
void decode_video(std::span<const std::byte> bytes, const std::string& where, std::int64_t wanted, const std::function<void(Image&&)>& use,
                  const VideoLimits& limits = {});

}  // namespace mmtune::vision
