#include "audio/resample.h"

#include <gtest/gtest.h>

#include <cmath>

#include "audio/feature_extractor.h"
#include "support/support.h"
#include "unit/audio/sounds.h"

namespace mmtune::test {
namespace {

/// The largest distance between the two in the middle, where no end is near.
double difference_inside(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  for (std::size_t i = a.size() / 4; i < a.size() * 3 / 4; ++i) largest = std::max(largest, std::abs(static_cast<double>(a[i] - b[i])));
  return largest;
}

TEST(SampleRate, TonesBelowTheCutOffStayWhatTheyAre) {
  for (const auto& [from, to] :
       {std::pair{8'000, 16'000}, {44'100, 16'000}, {48'000, 16'000}, {22'050, 16'000}, {16'000, 11'025}, {8'001, 16'000}}) {
    const auto count = static_cast<std::size_t>(from / 2);
    const audio::Sound result = audio::resample({from, tone(1000, from, count)}, to);
    EXPECT_EQ(result.rate, to);
    const auto expected = (static_cast<std::int64_t>(count) * to + from - 1) / from;
    ASSERT_EQ(static_cast<std::int64_t>(result.samples.size()), expected) << from << " to " << to;
    EXPECT_LT(difference_inside(result.samples, tone(1000, to, result.samples.size())), 1e-5) << from << " to " << to;
  }
}

TEST(SampleRate, WhatTheLowerRateCannotHoldIsGone) {
  const audio::Sound result = audio::resample({44'100, tone(9'000, 44'100, 22'050)}, 16'000);
  EXPECT_LT(difference_inside(result.samples, std::vector<float>(result.samples.size())), 1e-5);
}

TEST(SampleRate, TheSameRateChangesNothing) {
  const std::vector<float> samples = tone(7'900, 16'000, 100);
  EXPECT_EQ(audio::resample({16'000, samples}, 16'000).samples, samples);
}

TEST(SampleRate, OneSampleIsEnough) {
  EXPECT_EQ(audio::resample({8'000, {0.5F}}, 16'000).samples.size(), 2U);
  EXPECT_EQ(audio::resample({16'000, {0.5F}}, 8'000).samples.size(), 1U);
}

TEST(SampleRate, CanBeRefused) {
  EXPECT_EQ(audio::at_rate({8'000, {0.5F}}, 16'000, audio::OtherRates::resample, "a.wav").samples.size(), 2U);
  EXPECT_EQ(audio::at_rate({16'000, {0.5F}}, 16'000, audio::OtherRates::refuse, "a.wav").samples.size(), 1U);
  const std::string message = error_of([] { audio::at_rate({8'000, {0.5F}}, 16'000, audio::OtherRates::refuse, "a.wav"); });
  EXPECT_TRUE(message.starts_with("a.wav: the sound has another sample rate than the model: expected 16000 Hz, got 8000")) << message;
}

}  // namespace
}  // namespace mmtune::test
