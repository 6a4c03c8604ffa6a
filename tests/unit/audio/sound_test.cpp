#include "audio/sound.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/support.h"
#include "unit/audio/sounds.h"

namespace mmtune::test {
namespace {

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) largest = std::max(largest, std::abs(static_cast<double>(a[i] - b[i])));
  return largest;
}

TEST(Sound, IntegersAreDividedByTheirFullScale) {
  const auto sixteen = decode(as_wav({}, as_bytes<std::int16_t>({0, 16384, -32768, 32767})));
  EXPECT_EQ(sixteen.rate, 16'000);
  EXPECT_EQ(sixteen.samples, (std::vector<float>{0.0F, 0.5F, -1.0F, 32767.0F / 32768.0F}));
  EXPECT_EQ(decode(as_wav({.bits = 8}, std::string("\x80\xc0\x00", 3))).samples, (std::vector<float>{0.0F, 0.5F, -1.0F}));
  EXPECT_EQ(decode(as_wav({.bits = 24}, std::string("\x00\x00\x40\x00\x00\x80", 6))).samples, (std::vector<float>{0.5F, -1.0F}));
  EXPECT_EQ(decode(as_wav({.bits = 32}, as_bytes<std::int32_t>({1 << 30}))).samples, (std::vector<float>{0.5F}));
  EXPECT_EQ(decode(as_wav({.coding = 3, .bits = 32}, as_bytes<float>({0.25F, -3.0F}))).samples, (std::vector<float>{0.25F, -3.0F}));
  EXPECT_EQ(decode(as_wav({.coding = 3, .bits = 64}, as_bytes<double>({0.25}))).samples, (std::vector<float>{0.25F}));
}

TEST(Sound, ChannelsAreAveraged) {
  const auto stereo = decode(as_wav({.channels = 2}, as_bytes<std::int16_t>({16384, 0, -16384, 16384})));
  EXPECT_EQ(stereo.samples, (std::vector<float>{0.25F, 0.0F}));
  const auto eight = decode(as_wav({.channels = 8}, as_bytes<std::int16_t>({8192, 8192, 8192, 8192, 0, 0, 0, 0})));
  EXPECT_EQ(eight.samples, (std::vector<float>{0.125F}));
}

TEST(Sound, FlacAndOggGiveTheSamplesBack) {
  const std::vector<float> samples = tone(440, 16'000, 16'000);
  const audio::Sound flac = decode(as_file(samples, 16'000, SF_FORMAT_FLAC | SF_FORMAT_PCM_16));
  EXPECT_EQ(flac.rate, 16'000);
  EXPECT_LT(largest_difference(flac.samples, samples), 1.0 / 32767);
  const audio::Sound vorbis = decode(as_file(samples, 16'000, SF_FORMAT_OGG | SF_FORMAT_VORBIS));
  EXPECT_LT(largest_difference(vorbis.samples, samples), 0.05);
  const audio::Sound opus = decode(as_file(samples, 16'000, SF_FORMAT_OGG | SF_FORMAT_OPUS));
  EXPECT_EQ(opus.rate, 16'000);
  EXPECT_EQ(opus.samples.size(), samples.size());
}

TEST(Sound, EveryTruncationIsRefused) {
  const std::vector<float> samples = tone(300, 8'000, 3'000);
  for (const int format : {SF_FORMAT_WAV | SF_FORMAT_PCM_16, SF_FORMAT_WAVEX | SF_FORMAT_FLOAT, SF_FORMAT_FLAC | SF_FORMAT_PCM_16,
                           SF_FORMAT_OGG | SF_FORMAT_VORBIS, SF_FORMAT_RF64 | SF_FORMAT_PCM_16}) {
    const std::string bytes = as_file(samples, 8'000, format);
    ASSERT_GT(bytes.size(), 100U);
    EXPECT_EQ(decode(bytes).samples.size(), samples.size());
    for (std::size_t size = 0; size < bytes.size(); size += size < 200 || size + 20 > bytes.size() ? 1 : 61)
      EXPECT_THROW(decode(bytes.substr(0, size)), Error) << std::hex << format << " cut to " << std::dec << size;
  }
}

TEST(Sound, WhatCannotBeUsedIsRefused) {
  const std::string two = as_bytes<std::int16_t>({1, 2});
  EXPECT_EQ(error_of([] { decode(as_wav({}, "")); }), "test.wav: the sound has no samples");
  const std::string eleven = error_of([] { decode(as_wav({.channels = 11}, std::string(22, '\0'))); });
  EXPECT_TRUE(eleven.starts_with("test.wav: the sound has too many channels: expected 1 to 8, got 11")) << eleven;
  const std::string slow = error_of([&] { decode(as_wav({.rate = 7}, two)); });
  EXPECT_TRUE(slow.starts_with("test.wav: the sample rate is not one of a recording: expected 1000 to 384000 Hz, got 7")) << slow;
  const std::string nan = error_of([] {
    decode(as_wav({.coding = 3, .bits = 32}, as_bytes<float>({0.0F, std::numeric_limits<float>::quiet_NaN()})));
  });
  EXPECT_EQ(nan, "test.wav: the sound has samples that are not finite: got nan at sample 1");
  EXPECT_THROW(decode(as_wav({.coding = 3, .bits = 32}, as_bytes<float>({-std::numeric_limits<float>::infinity()}))), Error);
  EXPECT_EQ(
      error_of([] { decode(""); }),
      "test.wav: not a sound that can be read: expected WAV, FLAC or Ogg, or a video (MP4, M4A, Matroska, WebM, AVI), got an empty file");
  EXPECT_NE(error_of([] { decode("ID3\x04 and so on"); }).find("got MP3"), std::string::npos);
  EXPECT_NE(error_of([] { decode("\xff\xfb\x90 and so on"); }).find("got MP3"), std::string::npos);
  // A coding that WAV has and libsndfile does not.
  EXPECT_NE(error_of([&] { decode(as_wav({.coding = 0x161}, two)); }).find("coding is not supported"), std::string::npos);
}

TEST(Sound, DeclaredLengthsAreCheckedBeforeAnythingIsMade) {
  std::string bytes = as_file(tone(300, 8'000, 3'000), 8'000, SF_FORMAT_FLAC | SF_FORMAT_PCM_16);
  EXPECT_NE(error_of([&] { decode(bytes, {.max_frames = 2'999}); }).find("too long: expected at most 2999 samples, got 3000"),
            std::string::npos);
  // The 36-bit count of STREAMINFO ends at byte 25: 2^35 samples.
  bytes[21] = static_cast<char>(bytes[21] | 0x08);
  EXPECT_NE(error_of([&] { decode(bytes); }).find("the sound is too long"), std::string::npos);
  // More than there are, but not absurdly many.
  bytes[21] = static_cast<char>(bytes[21] & 0xf0);
  bytes[23] = 1;
  EXPECT_NE(error_of([&] { decode(bytes); }).find("truncated or damaged"), std::string::npos);
  // None: the encoder did not know.
  for (int i = 22; i < 26; ++i) bytes[static_cast<std::size_t>(i)] = 0;
  EXPECT_EQ(decode(bytes).samples.size(), 3'000U);
}

TEST(Sound, WavsThatWereWrittenToAPipeAreRead) {
  const std::string samples = as_bytes<std::int16_t>({1, 2, 3});
  std::string bytes = as_wav({}, samples);
  const std::uint32_t open = 0xFFFFFFFF;
  std::memcpy(bytes.data() + 40, &open, 4);
  std::memcpy(bytes.data() + 4, &open, 4);
  EXPECT_EQ(decode(bytes).samples.size(), 3U);
}

TEST(Sound, OtherChunksOfAWavArePassedOver) {
  std::string bytes = as_wav({}, as_bytes<std::int16_t>({1, 2, 3}));
  std::string list = "LIST";
  append(list, std::uint32_t{5});
  list += std::string("abcde\0", 6);  // an odd length is filled up
  bytes.insert(36, list);
  EXPECT_EQ(decode(bytes).samples.size(), 3U);
  EXPECT_EQ(decode(bytes + list).samples.size(), 3U);
}

}  // namespace
}  // namespace mmtune::test
