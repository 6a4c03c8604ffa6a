// The sound of a video: a small AVI written here, and what becomes of it when it is damaged.

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "audio/sound.h"
#include "core/error.h"
#include "io/ffmpeg_library.h"
#include "vision/video.h"

namespace mmtune::audio {
namespace {

std::string number(std::uint32_t value, int bytes = 4) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i) & 0xFF);
  return text;
}

std::string chunk(const std::string& name, const std::string& data) {
  return name + number(static_cast<std::uint32_t>(data.size())) + data + std::string(data.size() % 2, '\0');
}

std::string stream(const std::string& type, const std::string& codec, std::uint32_t scale, std::uint32_t rate, std::uint32_t length,
                   std::uint32_t sample_size, const std::string& format) {
  const std::string header = type + codec + number(0) + number(0) + number(0) + number(scale) + number(rate) + number(0) + number(length) +
                             number(0) + number(10000) + number(sample_size) + number(0) + number(0);
  return chunk("LIST", "strl" + chunk("strh", header) + chunk("strf", format));
}

constexpr int frames = 3, side = 4, rate = 8000, samples_a_frame = 400;

/// Grey pictures of 4 x 4 pixels, and two channels of 16-bit samples: a ramp, and its half.
std::string avi(bool with_sound = true) {
  std::string movie = "movi";
  for (int frame = 0; frame < frames; ++frame) {
    movie += chunk("00db", std::string(3 * side * side, static_cast<char>(40 * (frame + 1))));
    std::string sound;
    for (int i = 0; i < samples_a_frame; ++i) {
      const int value = 20 * (frame * samples_a_frame + i);
      sound += number(static_cast<std::uint32_t>(value), 2) + number(static_cast<std::uint32_t>(value / 2), 2);
    }
    if (with_sound) movie += chunk("01wb", sound);
  }
  const std::string bitmap = number(40) + number(side) + number(side) + number(1, 2) + number(24, 2) + number(0) + number(3 * side * side) +
                             number(0) + number(0) + number(0) + number(0);
  const std::string wave = number(1, 2) + number(2, 2) + number(rate) + number(4 * rate) + number(4, 2) + number(16, 2);
  std::string header = chunk("avih", number(50'000) + number(0) + number(0) + number(0x10) + number(frames) + number(0) +
                                         number(with_sound ? 2 : 1) + number(0) + number(side) + number(side) + std::string(16, '\0'));
  header += stream("vids", "DIB ", 1, 20, frames, 0, bitmap);
  if (with_sound) header += stream("auds", number(0), 1, rate, frames * samples_a_frame, 4, wave);
  const std::string body = "AVI " + chunk("LIST", "hdrl" + header) + chunk("LIST", movie);
  return chunk("RIFF", body);
}

Sound decode(const std::string& bytes) {
  return decode_sound(std::as_bytes(std::span(bytes)), "clip.avi");
}

std::string refusal(const std::string& bytes) {
  try {
    decode(bytes);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

TEST(VideoSound, IsTheMeanOfItsChannels) {
  if (!io::has_ffmpeg()) GTEST_SKIP() << "built without FFmpeg";
  const Sound sound = decode(avi());
  EXPECT_EQ(sound.rate, rate);
  ASSERT_EQ(sound.samples.size(), std::size_t{frames} * samples_a_frame);
  for (std::size_t i = 0; i < sound.samples.size(); ++i) {
    const int value = 20 * static_cast<int>(i), sum = value + value / 2;
    ASSERT_FLOAT_EQ(sound.samples[i], static_cast<float>(sum) / 2.0F / 32768.0F) << i;
  }
}

TEST(VideoSound, RefusesVideosWithoutSound) {
  if (!io::has_ffmpeg()) GTEST_SKIP() << "built without FFmpeg";
  EXPECT_NE(refusal(avi(false)).find("it has no sound"), std::string::npos);
  std::string mp4("\0\0\0\x20", 4);
  mp4 += "ftypM4A " + std::string(200, 'x');
  EXPECT_NE(refusal(mp4).find("clip.avi"), std::string::npos);
}

TEST(VideoSound, KeepsToItsLimits) {
  if (!io::has_ffmpeg()) GTEST_SKIP() << "built without FFmpeg";
  const std::string bytes = avi();
  const auto decode_within = [&](const DecodeLimits& limits) { return decode_sound(std::as_bytes(std::span(bytes)), "clip.avi", limits); };
  EXPECT_THROW(decode_within({.max_frames = 1000}), Error);
  EXPECT_THROW(decode_within({.max_channels = 1}), Error);
  EXPECT_THROW(decode_within({.min_rate = 16'000}), Error);
  EXPECT_NO_THROW(decode_within({.max_frames = frames * samples_a_frame}));
}

TEST(VideoSound, DamagedFilesAreDecodedWithinTheLimitsOrRefused) {
  if (!io::has_ffmpeg()) GTEST_SKIP() << "built without FFmpeg";
  const std::string whole = avi();
  std::mt19937 random(1);
  const DecodeLimits limits{.max_frames = 100'000};
  for (int round = 0; round < 1500; ++round) {
    std::string bytes = whole;
    if (round % 3 == 0) bytes.resize(random() % bytes.size());
    for (int flips = round % 3 == 0 ? 0 : 1 + static_cast<int>(random() % 8); flips > 0; --flips) {
      // Mostly the headers, which lie in front.
      const std::size_t place = random() % (flips % 2 == 0 ? bytes.size() : std::size_t{400});
      bytes[place] = static_cast<char>(random());
    }
    try {
      const Sound sound = decode_sound(std::as_bytes(std::span(bytes)), "clip.avi", limits);
      ASSERT_FALSE(sound.samples.empty());
      ASSERT_LE(sound.samples.size(), std::size_t{100'000});
    } catch (const Error&) {
    }
    try {
      int taken = 0;
      vision::decode_video(std::as_bytes(std::span(bytes)), "clip.avi", 2,
                           [&](vision::Image&& picture) {
                             ++taken;
                             ASSERT_LE(picture.width * picture.height, 1 << 12);
                           },
                           {.max_pixels = 1 << 12, .max_frames = 1000});
      ASSERT_EQ(taken, 2);
    } catch (const Error&) {
    }
  }
}

}  // namespace
}  // namespace mmtune::audio
