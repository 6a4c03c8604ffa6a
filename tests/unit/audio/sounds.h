#pragma once
// Sounds for the tests: made-up samples, and files of them as bytes, WAV by hand and the rest by libsndfile.

#include <sndfile.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <numbers>
#include <string>
#include <vector>

#include "audio/sound.h"

namespace mmtune::test {

/// `count` samples of a sine of `hertz` at `rate`.
inline std::vector<float> tone(double hertz, std::int64_t rate, std::size_t count, double loudness = 0.5) {
  std::vector<float> samples(count);
  for (std::size_t i = 0; i < count; ++i)
    samples[i] =
        static_cast<float>(loudness * std::sin(2.0 * std::numbers::pi * hertz * static_cast<double>(i) / static_cast<double>(rate)));
  return samples;
}

template <class T>
void append(std::string& bytes, T value) {
  char raw[sizeof(T)];
  std::memcpy(raw, &value, sizeof(T));
  bytes.append(raw, sizeof(T));
}

struct WavShape {
  std::uint16_t channels = 1;
  std::uint32_t rate = 16'000;
  std::uint16_t coding = 1;  ///< 1 integers, 3 floating point
  std::uint16_t bits = 16;
};

/// A WAV around the bytes of its samples.
inline std::string as_wav(const WavShape& shape, const std::string& samples) {
  std::string bytes = "RIFF";
  append(bytes, static_cast<std::uint32_t>(36 + samples.size()));
  bytes += "WAVEfmt ";
  append(bytes, std::uint32_t{16});
  append(bytes, shape.coding);
  append(bytes, shape.channels);
  append(bytes, shape.rate);
  append(bytes, static_cast<std::uint32_t>(shape.rate * shape.channels * shape.bits / 8));
  append(bytes, static_cast<std::uint16_t>(shape.channels * shape.bits / 8));
  append(bytes, shape.bits);
  bytes += "data";
  append(bytes, static_cast<std::uint32_t>(samples.size()));
  return bytes + samples;
}

template <class T>
std::string as_bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

/// Mono samples in any of libsndfile's formats.
inline std::string as_file(const std::vector<float>& samples, int rate, int format) {
  struct Buffer {
    std::string bytes;
    sf_count_t at = 0;
  } buffer;
  SF_VIRTUAL_IO io{};
  io.get_filelen = [](void* self) { return static_cast<sf_count_t>(static_cast<Buffer*>(self)->bytes.size()); };
  io.tell = [](void* self) { return static_cast<Buffer*>(self)->at; };
  io.seek = [](sf_count_t offset, int whence, void* self) {
    auto& own = *static_cast<Buffer*>(self);
    own.at = offset + (whence == SEEK_CUR ? own.at : whence == SEEK_END ? static_cast<sf_count_t>(own.bytes.size()) : 0);
    return own.at;
  };
  io.read = [](void*, sf_count_t, void*) { return sf_count_t{0}; };
  io.write = [](const void* from, sf_count_t count, void* self) {
    auto& own = *static_cast<Buffer*>(self);
    const auto end = static_cast<std::size_t>(own.at + count);
    if (own.bytes.size() < end) own.bytes.resize(end);
    std::memcpy(own.bytes.data() + own.at, from, static_cast<std::size_t>(count));
    own.at += count;
    return count;
  };
  SF_INFO info{};
  info.samplerate = rate;
  info.channels = 1;
  info.format = format;
  SNDFILE* file = sf_open_virtual(&io, SFM_WRITE, &info, &buffer);
  if (file == nullptr) return {};
  sf_writef_float(file, samples.data(), static_cast<sf_count_t>(samples.size()));
  sf_close(file);
  return buffer.bytes;
}

inline audio::Sound decode(const std::string& bytes, const audio::DecodeLimits& limits = {}) {
  return audio::decode_sound({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()}, "test.wav", limits);
}

}  // namespace mmtune::test
