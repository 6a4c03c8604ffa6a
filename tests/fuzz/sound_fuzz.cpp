// Every format of sound, told by the content, and a change of rate of what was decoded.

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "audio/resample.h"
#include "audio/sound.h"
#include "core/error.h"

/// libsndfile 1.2.0 does not free what it had made of an Ogg stream that it then refuses; nothing of ours can.
extern "C" const char* __lsan_default_suppressions() {
  return "leak:libsndfile.so\nleak:libvorbis.so\nleak:libogg.so\nleak:libopus.so\nleak:libFLAC.so\n";
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mmtune::audio;
  constexpr std::int64_t most = 1 << 12;
  try {
    const Sound sound = decode_sound({reinterpret_cast<const std::byte*>(data), size}, "input", {.max_frames = most});
    MMTUNE_ASSERT(!sound.samples.empty() && static_cast<std::int64_t>(sound.samples.size()) <= most);
    for (const float sample : sound.samples) MMTUNE_ASSERT(std::isfinite(sample));
    const std::int64_t rate = sound.rate >= 2000 ? sound.rate / 2 : sound.rate;
    MMTUNE_ASSERT(!resample(sound, rate).samples.empty());
  } catch (const mmtune::Error&) {
  }
  return 0;
}
