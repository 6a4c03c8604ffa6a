#include "audio/sound.h"

#include <sndfile.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>

#include "audio/containers.h"
#include "core/error.h"
#include "io/ffmpeg_library.h"

namespace mmtune::audio {

namespace {

/// Bytes in memory as libsndfile's virtual file.
struct Reader {
  std::span<const std::byte> bytes;
  sf_count_t at = 0;

  static sf_count_t length(void* self) { return static_cast<sf_count_t>(static_cast<Reader*>(self)->bytes.size()); }
  static sf_count_t tell(void* self) { return static_cast<Reader*>(self)->at; }
  static sf_count_t seek(sf_count_t offset, int whence, void* self) {
    auto& reader = *static_cast<Reader*>(self);
    const sf_count_t size = length(self);
    const sf_count_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? reader.at : size;
    // Offsets come from the file: one that would overflow goes to an end.
    if (offset < -base) return reader.at = 0;
    return reader.at = offset > size - base ? size : base + offset;
  }
  static sf_count_t read(void* out, sf_count_t count, void* self) {
    auto& reader = *static_cast<Reader*>(self);
    const sf_count_t taken = std::clamp<sf_count_t>(count, 0, length(self) - reader.at);
    if (taken > 0) std::memcpy(out, reader.bytes.data() + reader.at, static_cast<std::size_t>(taken));
    reader.at += taken;
    return taken;
  }
  static sf_count_t write(const void*, sf_count_t, void*) { return 0; }
};

struct Close {
  void operator()(SNDFILE* file) const { sf_close(file); }
};

bool is_supported(int format, Container container) {
  switch (format & SF_FORMAT_TYPEMASK) {
    case SF_FORMAT_WAV:
    case SF_FORMAT_WAVEX:
    case SF_FORMAT_RF64:
      return container == Container::wav;
    case SF_FORMAT_FLAC:
      return container == Container::flac;
    case SF_FORMAT_OGG:
      return container == Container::ogg;
    default:
      return false;
  }
}

void check_declared(std::int64_t channels, std::int64_t rate, const std::string& where, const DecodeLimits& limits) {
  if (channels < 1 || channels > limits.max_channels)
    throw Error({.what = "the sound has too many channels",
                 .where = where,
                 .expected = "1 to " + std::to_string(limits.max_channels),
                 .got = std::to_string(channels),
                 .hint = "mix it down, for instance with: ffmpeg -i IN -ac 1 OUT.wav"});
  if (rate < limits.min_rate || rate > limits.max_rate)
    throw Error({.what = "the sample rate is not one of a recording",
                 .where = where,
                 .expected = std::to_string(limits.min_rate) + " to " + std::to_string(limits.max_rate) + " Hz",
                 .got = std::to_string(rate)});
}

[[noreturn]] void refuse_length(const std::string& where, std::int64_t limit, const std::string& got) {
  throw Error({.what = "the sound is too long", .where = where, .expected = "at most " + std::to_string(limit) + " samples", .got = got});
}

void append(Sound& sound, float sample, const std::string& where) {
  if (!std::isfinite(sample))
    throw Error({.what = "the sound has samples that are not finite",
                 .where = where,
                 .got = std::to_string(sample) + " at sample " + std::to_string(sound.samples.size())});
  sound.samples.push_back(sample);
}

Sound sound_of_video(std::span<const std::byte> bytes, const std::string& where, const DecodeLimits& limits) {
  const MmtuneFfmpeg& functions = io::ffmpeg(where, "give the sound as WAV, FLAC or Ogg");
  struct Taken {
    const std::string& where;
    const DecodeLimits& limits;
    Sound sound = {};
  } taken{.where = where, .limits = limits};
  const MmtuneSoundSink sink{.user = &taken,
                             .opened =
                                 [](void* user, std::int64_t rate, std::int64_t channels) {
                                   auto& own = *static_cast<Taken*>(user);
                                   check_declared(channels, rate, own.where, own.limits);
                                   own.sound.rate = rate;
                                 },
                             .take =
                                 [](void* user, const float* samples, std::size_t count) {
                                   auto& own = *static_cast<Taken*>(user);
                                   if (static_cast<std::int64_t>(own.sound.samples.size() + count) > own.limits.max_frames)
                                     refuse_length(own.where, own.limits.max_frames, "more");
                                   for (const float sample : std::span(samples, count)) append(own.sound, sample, own.where);
                                 }};
  std::array<char, 256> message{};
  const int code =
      functions.sound(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), &sink, message.data(), message.size());
  if (code != 0) throw Error({.what = "the sound of the video cannot be decoded: " + printable(message.data()), .where = where});
  if (taken.sound.samples.empty()) throw Error({.what = "the sound has no samples", .where = where});
  return std::move(taken.sound);
}

/// A FLAC stream whose encoder did not know its length, by libsndfile's convention.
bool length_unknown(const SF_INFO& info) {
  return info.frames == SF_COUNT_MAX || info.frames < 0;
}

}  // namespace

Sound decode_sound(std::span<const std::byte> bytes, const std::string& where, const DecodeLimits& limits) {
  const Container container = container_of(bytes, where);
  if (container == Container::video) return sound_of_video(bytes, where, limits);
  require_complete(bytes, container, where);
  Reader reader{bytes};
  SF_VIRTUAL_IO io{.get_filelen = Reader::length, .seek = Reader::seek, .read = Reader::read, .write = Reader::write, .tell = Reader::tell};
  SF_INFO info{};
  const std::unique_ptr<SNDFILE, Close> file(sf_open_virtual(&io, SFM_READ, &info, &reader));
  // Why it was not opened, libsndfile keeps in a global variable, which another thread may be writing.
  if (!file || !is_supported(info.format, container))
    throw Error({.what = "cannot decode the sound: its header is damaged, or its coding is not supported", .where = where});
  check_declared(info.channels, info.samplerate, where, limits);
  if (info.frames == 0) throw Error({.what = "the sound has no samples", .where = where});
  const bool unknown = length_unknown(info);
  if (!unknown && info.frames > limits.max_frames) refuse_length(where, limits.max_frames, std::to_string(info.frames));

  Sound sound{.rate = info.samplerate, .samples = {}};
  const auto channels = static_cast<std::size_t>(info.channels);
  constexpr sf_count_t block = 8192;
  std::vector<float> frames(static_cast<std::size_t>(block) * channels);
  for (;;) {
    const sf_count_t got = sf_readf_float(file.get(), frames.data(), block);
    if (got <= 0) break;
    if (static_cast<std::int64_t>(sound.samples.size()) + got > limits.max_frames) refuse_length(where, limits.max_frames, "more");
    for (sf_count_t i = 0; i < got; ++i) {
      double sum = 0;
      for (std::size_t c = 0; c < channels; ++c) sum += static_cast<double>(frames[static_cast<std::size_t>(i) * channels + c]);
      const auto sample = static_cast<float>(sum / static_cast<double>(channels));
      append(sound, sample, where);
    }
  }
  if (const int code = sf_error(file.get()); code != SF_ERR_NO_ERROR)
    throw Error({.what = "cannot decode the sound: " + printable(sf_error_number(code)), .where = where});
  if (sound.samples.empty()) throw Error({.what = "the sound has no samples", .where = where});
  if (!unknown && static_cast<sf_count_t>(sound.samples.size()) < info.frames)
    throw Error({.what = "the sound is truncated or damaged",
                 .where = where,
                 .expected = std::to_string(info.frames) + " samples",
                 .got = std::to_string(sound.samples.size())});
  return sound;
}

}  // namespace mmtune::audio
