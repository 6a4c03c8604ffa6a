// Extractors of Kaldi's filter banks, by transformers' numpy code for them: ASTFeatureExtractor and SeamlessM4TFeatureExtractor.

#include <algorithm>
#include <cmath>

#include "audio/extractors.h"
#include "audio/spectrogram.h"
#include "core/error.h"

namespace mmtune::audio {

namespace {

constexpr std::int64_t frame = 400, hop = 160, fft = 512;

/// Filter banks of 25 ms frames every 10 ms (at 16 kHz).
class FilterBanks {
 public:
  FilterBanks(Window window, std::int64_t mels, std::int64_t rate, double gain)
      : window_(window_of(window, frame, false)),
        filters_(mel_filters({.bins = fft / 2 + 1,
                              .filters = mels,
                              .low = 20.0,
                              .high = static_cast<double>(rate - rate % 2) / 2.0,
                              .rate = rate,
                              .scale = MelScale::kaldi,
                              .in_mel_space = true})),
        gain_(gain) {}

  /// [frames, mels] of at least `least` frames.
  std::vector<float> operator()(std::span<const float> waveform, std::int64_t least) const {
    const SpectrogramOptions options{.window = window_,
                                     .hop = hop,
                                     .fft = fft,
                                     .preemphasis = 0.97,
                                     .remove_mean = true,
                                     .filters = filters_,
                                     .floor = 1.192092955078125e-07};
    const auto samples = static_cast<std::int64_t>(waveform.size());
    if (frame_count(samples, options) < least)
      throw Error({.what = "the sound is too short for the model's frames",
                   .expected = "at least " + std::to_string(frame + (least - 1) * hop) + " samples",
                   .got = std::to_string(samples)});
    std::vector<float> scaled(waveform.begin(), waveform.end());
    for (float& sample : scaled) sample *= static_cast<float>(gain_);
    return log_mel_spectrogram(scaled, options);
  }

 private:
  std::vector<double> window_, filters_;
  double gain_;
};

struct AstSettings {
  std::int64_t rate, mels, frames;
  bool normalise;
  double mean, deviation;
};

class AstExtractor final : public FeatureExtractor {
 public:
  explicit AstExtractor(const AstSettings& settings) : settings_(settings), banks_(Window::hann, settings.mels, settings.rate, 1.0) {}

  Features operator()(std::span<const Waveform> waveforms) const override {
    Features features;
    features.shape = {static_cast<std::int64_t>(waveforms.size()), settings_.frames, settings_.mels};
    const auto size = static_cast<std::size_t>(settings_.frames * settings_.mels);
    for (const Waveform& waveform : waveforms) {
      std::vector<float> levels = banks_(waveform, 1);
      levels.resize(size, 0.0F);  // the padding is normalised too, as in the original
      for (const float level : levels) {
        const double distance = static_cast<double>(level) - settings_.mean;
        features.values.push_back(settings_.normalise ? static_cast<float>(distance / (settings_.deviation * 2.0)) : level);
      }
    }
    return features;
  }

  std::int64_t rate() const override { return settings_.rate; }
  std::string_view input_name() const override { return "input_values"; }

  std::string describe() const override {
    return "AST's Kaldi filter banks: " + std::to_string(settings_.frames) + " frames of " + std::to_string(settings_.mels) + " bands at " +
           std::to_string(settings_.rate) + " Hz" +
           (settings_.normalise ? ", mean " + std::to_string(settings_.mean) + ", std " + std::to_string(settings_.deviation) : "");
  }

 private:
  AstSettings settings_;
  FilterBanks banks_;
};

struct SeamlessSettings {
  std::int64_t rate, mels, stride;
  double padding;
  bool mask, left;
};

/// Every band to zero mean and unit (sample) variance over the frames.
void normalise_bands(std::vector<float>& levels, std::size_t mels) {
  const std::size_t frames = levels.size() / mels;
  for (std::size_t m = 0; m < mels; ++m) {
    double mean = 0.0, squares = 0.0;
    for (std::size_t t = 0; t < frames; ++t) mean += static_cast<double>(levels[t * mels + m]);
    mean /= static_cast<double>(frames);
    for (std::size_t t = 0; t < frames; ++t) {
      const double distance = static_cast<double>(levels[t * mels + m]) - mean;
      squares += distance * distance;
    }
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(frames - 1) + 1e-7);
    for (std::size_t t = 0; t < frames; ++t)
      levels[t * mels + m] = static_cast<float>((static_cast<double>(levels[t * mels + m]) - mean) * scale);
  }
}

class SeamlessExtractor final : public FeatureExtractor {
 public:
  explicit SeamlessExtractor(const SeamlessSettings& settings)
      : settings_(settings), banks_(Window::povey, settings.mels, settings.rate, 32768.0) {}

  Features operator()(std::span<const Waveform> waveforms) const override {
    const auto mels = static_cast<std::size_t>(settings_.mels), stride = static_cast<std::size_t>(settings_.stride);
    std::vector<std::vector<float>> all;
    std::size_t longest = 0;
    for (const Waveform& waveform : waveforms) {
      all.push_back(banks_(waveform, 2));  // one frame has no variance
      normalise_bands(all.back(), mels);
      longest = std::max(longest, all.back().size() / mels);
    }
    longest += longest % 2;  // transformers pads to an even number, whatever the stride
    const std::size_t rows = longest / stride;
    if (rows == 0) throw Error({.what = "the sound is too short for the model's stride"});
    Features features;
    features.shape = {static_cast<std::int64_t>(waveforms.size()), static_cast<std::int64_t>(rows), settings_.mels * settings_.stride};
    if (settings_.mask) features.mask_length = static_cast<std::int64_t>(rows);
    for (std::vector<float>& levels : all) {
      const std::size_t frames = levels.size() / mels, before = settings_.left ? longest - frames : 0;
      levels.insert(settings_.left ? levels.begin() : levels.end(), (longest - frames) * mels, static_cast<float>(settings_.padding));
      features.values.insert(features.values.end(), levels.begin(), levels.begin() + static_cast<std::ptrdiff_t>(rows * stride * mels));
      if (!settings_.mask) continue;
      // A row is real where its second frame is.
      for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t second = r * stride + 1;
        features.mask.push_back(second >= before && second < before + frames ? 1 : 0);
      }
    }
    return features;
  }

  std::int64_t rate() const override { return settings_.rate; }
  std::string_view input_name() const override { return "input_features"; }

  std::string describe() const override {
    return "SeamlessM4T's Kaldi filter banks: " + std::to_string(settings_.stride) + " frames of " + std::to_string(settings_.mels) +
           " bands a row at " + std::to_string(settings_.rate) + " Hz, padded with " + std::to_string(settings_.padding) + " on the " +
           (settings_.left ? "left" : "right");
  }

 private:
  SeamlessSettings settings_;
  FilterBanks banks_;
};

}  // namespace

std::unique_ptr<FeatureExtractor> make_ast_extractor(const ExtractorFields& fields) {
  const AstSettings settings{.rate = fields.rate(16'000),
                             .mels = fields.integer("num_mel_bins", 128, 1, 1024),
                             .frames = fields.integer("max_length", 1024, 1, 1 << 20),
                             .normalise = fields.flag("do_normalize", true),
                             .mean = fields.number("mean", -4.2677393),
                             .deviation = fields.number("std", 4.5689974)};
  if (settings.deviation <= 0.0) fields.refuse("std is not positive");
  if (settings.frames * settings.mels > most_values) fields.refuse("max_length makes absurdly much");
  return std::make_unique<AstExtractor>(settings);
}

std::unique_ptr<FeatureExtractor> make_seamless_extractor(const ExtractorFields& fields) {
  return std::make_unique<SeamlessExtractor>(SeamlessSettings{.rate = fields.rate(16'000),
                                                              .mels = fields.integer("num_mel_bins", 80, 1, 1024),
                                                              .stride = fields.integer("stride", 2, 2, 64),
                                                              .padding = fields.number("padding_value", 0.0),
                                                              .mask = fields.flag("return_attention_mask", true),
                                                              .left = fields.text("padding_side", "right", {"left", "right"}) == "left"});
}

}  // namespace mmtune::audio
