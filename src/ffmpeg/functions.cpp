// The library's own functions; no exception of its own leaves them.

#include "ffmpeg/functions.h"

#include <cstdio>

#include "ffmpeg/input.h"
#include "ffmpeg/sound.h"
#include "ffmpeg/video.h"

namespace {

int video(const unsigned char* bytes, std::size_t size, std::int64_t max_pixels, std::int64_t max_frames, const MmtuneVideoSink* sink,
          char* message, std::size_t capacity) try {
  mmtune::ffmpeg::decode_video(bytes, size, max_pixels, max_frames, *sink);
  return 0;
} catch (const mmtune::ffmpeg::Fault& fault) {
  std::snprintf(message, capacity, "%s", fault.what());
  return 1;
}

int sound(const unsigned char* bytes, std::size_t size, const MmtuneSoundSink* sink, char* message, std::size_t capacity) try {
  mmtune::ffmpeg::decode_sound(bytes, size, *sink);
  return 0;
} catch (const mmtune::ffmpeg::Fault& fault) {
  std::snprintf(message, capacity, "%s", fault.what());
  return 1;
}

}  // namespace

extern "C" const MmtuneFfmpeg* mmtune_ffmpeg_open() {
  static const MmtuneFfmpeg functions{.abi = mmtune_ffmpeg_abi, .video = video, .sound = sound};
  av_log_set_level(AV_LOG_QUIET);
  return &functions;
}
