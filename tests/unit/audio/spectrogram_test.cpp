#include "audio/spectrogram.h"

#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <numbers>

#include "audio/feature_extractor.h"
#include "audio/fft.h"
#include "support/support.h"
#include "unit/audio/sounds.h"

namespace mmtune::test {
namespace {

using audio::FeatureExtractor;

TEST(Fft, EqualsTheSum) {
  for (const std::size_t size : {1, 2, 3, 4, 5, 7, 8, 12, 30, 49, 97, 400, 512}) {
    std::vector<double> input(size);
    for (std::size_t i = 0; i < size; ++i) input[i] = std::sin(static_cast<double>(i * i) + 0.3);
    audio::Fft fft(size);
    std::vector<std::complex<double>> output(size / 2 + 1);
    fft(input, output);
    for (std::size_t k = 0; k < output.size(); ++k) {
      std::complex<double> sum = 0;
      for (std::size_t i = 0; i < size; ++i)
        sum += input[i] * std::polar(1.0, -2.0 * std::numbers::pi * static_cast<double>(k * i % size) / static_cast<double>(size));
      EXPECT_LT(std::abs(output[k] - sum), 1e-10 * static_cast<double>(size)) << "bin " << k << " of " << size;
    }
  }
}

TEST(Mel, ScalesAreTheirOwnInverse) {
  for (const audio::MelScale scale : {audio::MelScale::htk, audio::MelScale::kaldi, audio::MelScale::slaney})
    for (const double hertz : {0.0, 440.0, 1000.0, 7999.0})
      EXPECT_NEAR(audio::mel_to_hertz(audio::hertz_to_mel(hertz, scale), scale), hertz, 1e-8);
  // Where each scale is anchored.
  EXPECT_NEAR(audio::hertz_to_mel(1000, audio::MelScale::htk), 999.9855, 1e-3);
  EXPECT_NEAR(audio::hertz_to_mel(1000, audio::MelScale::slaney), 15.0, 1e-12);
  EXPECT_NEAR(audio::hertz_to_mel(6400, audio::MelScale::slaney), 42.0, 1e-12);
}

TEST(Spectrogram, AToneIsLoudestInItsBand) {
  const std::vector<double> window = audio::window_of(audio::Window::hann, 400, true);
  const std::vector<double> filters =
      audio::mel_filters({.bins = 257, .filters = 20, .low = 0, .high = 8000, .rate = 16'000, .scale = audio::MelScale::slaney});
  const audio::SpectrogramOptions options{.window = window, .hop = 160, .fft = 512, .filters = filters};
  const std::vector<float> waveform = tone(1000, 16'000, 1600);
  ASSERT_EQ(audio::frame_count(1600, options), 8);
  const std::vector<float> levels = audio::log_mel_spectrogram(waveform, options);
  ASSERT_EQ(levels.size(), 8U * 20U);
  for (int t = 0; t < 8; ++t) {
    const auto begin = levels.begin() + t * 20;
    const double centre = audio::mel_to_hertz(
        audio::hertz_to_mel(8000, audio::MelScale::slaney) / 21.0 * static_cast<double>(1 + std::max_element(begin, begin + 20) - begin),
        audio::MelScale::slaney);
    EXPECT_NEAR(centre, 1000, 150);
  }
  EXPECT_EQ(audio::frame_count(399, options), 0);
  EXPECT_EQ(audio::frame_count(400, options), 1);
}

std::string extractor_error(const char* json) {
  return error_of([&] { FeatureExtractor::from_json(parse_json(json, "preprocessor_config.json"), "preprocessor_config.json"); });
}

TEST(FeatureExtractor, SettingsThatMakeNoSenseAreRefusedByName) {
  EXPECT_NE(extractor_error(R"({"feature_extractor_type": "EncodecFeatureExtractor"})").find("unknown feature_extractor_type"),
            std::string::npos);
  EXPECT_NE(extractor_error("[]").find("not a JSON object"), std::string::npos);
  EXPECT_NE(extractor_error("{}").find("feature_extractor_type is missing"), std::string::npos);
  const auto with = [](const std::string& type, const std::string& field) {
    return extractor_error(("{\"feature_extractor_type\": \"" + type + "FeatureExtractor\", " + field + "}").c_str());
  };
  EXPECT_NE(with("Wav2Vec2", R"("sampling_rate": 0)").find("sampling_rate: expected an integer from 1000 to 384000, got 0"),
            std::string::npos);
  EXPECT_NE(with("Wav2Vec2", R"("do_normalize": 1)").find("do_normalize: expected true or false, got 1"), std::string::npos);
  EXPECT_NE(with("Wav2Vec2", R"("padding_side": "left")").find("padding_side"), std::string::npos);
  EXPECT_NE(with("Wav2Vec2", R"("feature_size": 2)").find("feature_size"), std::string::npos);
  EXPECT_NE(with("Wav2Vec2", R"("padding_value": "0")").find("padding_value"), std::string::npos);
  EXPECT_NE(with("Whisper", R"("dither": 0.1)").find("dither"), std::string::npos);
  EXPECT_NE(with("Whisper", R"("hop_length": 1)").find("absurdly much"), std::string::npos);
  EXPECT_NE(with("Whisper", R"("chunk_length": 600, "sampling_rate": 384000)").find("absurdly much"), std::string::npos);
  EXPECT_NE(with("AST", R"("std": 0)").find("std is not positive"), std::string::npos);
  EXPECT_NE(with("AST", R"("max_length": 1048576)").find("absurdly much"), std::string::npos);
  EXPECT_NE(with("SeamlessM4T", R"("stride": 1)").find("stride"), std::string::npos);
  EXPECT_NE(with("Clap", R"("frequency_max": 0)").find("no range of frequencies"), std::string::npos);
  EXPECT_NE(with("Clap", R"("truncation": "middle")").find("truncation"), std::string::npos);
}

TEST(FeatureExtractor, SoundsThatAreTooShortOrTooLongAreRefused) {
  const auto refused = [](const char* json, std::size_t samples) {
    const auto extractor = FeatureExtractor::from_json(parse_json(json, "x"), "x");
    const std::vector<float> waveform(samples, 0.1F);
    const FeatureExtractor::Waveform one(waveform);
    return error_of([&] { (*extractor)(std::span(&one, 1)); });
  };
  EXPECT_NE(refused(R"({"feature_extractor_type": "ASTFeatureExtractor"})", 399).find("at least 400 samples, got 399"), std::string::npos);
  EXPECT_NE(refused(R"({"feature_extractor_type": "SeamlessM4TFeatureExtractor"})", 400).find("at least 560 samples"), std::string::npos);
  EXPECT_NE(refused(R"({"feature_extractor_type": "ClapFeatureExtractor", "max_length_s": 1})", 48'001).find("random crops"),
            std::string::npos);
}

TEST(FeatureExtractor, IsFoundWhereverSavesKeepIt) {
  const TempFolder folder;
  folder.write("processor_config.json",
               R"({"feature_extractor": {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 8000}})");
  EXPECT_EQ(FeatureExtractor::open(folder.path())->rate(), 8'000);
  folder.write("preprocessor_config.json", R"({"sampling_rate": 44100})");
  EXPECT_NE(error_of([&] { FeatureExtractor::open(folder.path()); }).find("feature_extractor_type is missing"), std::string::npos);
  folder.write("config.json", R"({"model_type": "wav2vec2"})");
  EXPECT_EQ(FeatureExtractor::open(folder.path())->rate(), 44'100);
}

}  // namespace
}  // namespace mmtune::test
