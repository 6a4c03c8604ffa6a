#include "audio/sound.h"

#include <sndfile.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>

#include "audio/containers.h"
#include "core/error.h"

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

void check_declared(const SF_INFO& info, const std::string& where, const DecodeLimits& limits) {
  if (info.channels < 1 || info.channels > limits.max_channels)
    throw Error({.what = "the sound has too many channels",
                 .where = where,
                 .expected = "1 to " + std::to_string(limits.max_channels),
                 .got = std::to_string(info.channels),
                 .hint = "mix it down, for instance with: ffmpeg -i IN -ac 1 OUT.wav"});
  if (info.samplerate < limits.min_rate || info.samplerate > limits.max_rate)
    throw Error({.what = "the sample rate is not one of a recording",
                 .where = where,
                 .expected = std::to_string(limits.min_rate) + " to " + std::to_string(limits.max_rate) + " Hz",
                 .got = std::to_string(info.samplerate)});
  if (info.frames == 0) throw Error({.what = "the sound has no samples", .where = where});
}

[[noreturn]] void refuse_length(const std::string& where, std::int64_t limit, const std::string& got) {
  throw Error({.what = "the sound is too long", .where = where, .expected = "at most " + std::to_string(limit) + " samples", .got = got});
}

/// A FLAC stream whose encoder did not know its length, by libsndfile's convention.
bool length_unknown(const SF_INFO& info) {
  return info.frames == SF_COUNT_MAX || info.frames < 0;
}

}  // namespace

Sound decode_sound(std::span<const std::byte> bytes, const std::string& where, const DecodeLimits& limits) {
  const Container container = container_of(bytes, where);
  require_complete(bytes, container, where);
  Reader reader{bytes};
  SF_VIRTUAL_IO io{.get_filelen = Reader::length, .seek = Reader::seek, .read = Reader::read, .write = Reader::write, .tell = Reader::tell};
  SF_INFO info{};
  const std::unique_ptr<SNDFILE, Close> file(sf_open_virtual(&io, SFM_READ, &info, &reader));
  // Why it was not opened, libsndfile keeps in a global variable, which another thread may be writing.
  if (!file || !is_supported(info.format, container))
    throw Error({.what = "cannot decode the sound: its header is damaged, or its coding is not supported", .where = where});
  check_declared(info, where, limits);
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
      if (!std::isfinite(sample))
        throw Error({.what = "the sound has samples that are not finite",
                     .where = where,
                     .got = std::to_string(sample) + " at sample " + std::to_string(sound.samples.size())});
      sound.samples.push_back(sample);
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
