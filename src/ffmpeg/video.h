#pragma once
// Frames of the first video stream.

#include "ffmpeg/functions.h"

namespace mmtune::ffmpeg {

/// MmtuneFfmpeg::video, with Fault where it fails.
void decode_video(const unsigned char* bytes, std::size_t size, std::int64_t max_pixels, std::int64_t max_frames,
                  const MmtuneVideoSink& sink);

}  // namespace mmtune::ffmpeg
