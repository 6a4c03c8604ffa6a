#pragma once
// Samples of the first audio stream.

#include "ffmpeg/functions.h"

namespace mmtune::ffmpeg {

/// MmtuneFfmpeg::sound, with Fault where it fails.
void decode_sound(const unsigned char* bytes, std::size_t size, const MmtuneSoundSink& sink);

}  // namespace mmtune::ffmpeg
