// Wav2Vec2FeatureExtractor: samples of zero mean and unit variance, padded to the longest of a batch.

#include <algorithm>
#include <cmath>

#include "audio/extractors.h"
#include "core/error.h"

namespace mmtune::audio {

namespace {

struct Settings {
  std::int64_t rate;
  bool normalise, mask;
  double padding;
};

/// (x − mean) / √(variance + 1e-7).
void normalise(std::span<float> values) {
  double mean = 0.0, variance = 0.0;
  for (const float value : values) mean += static_cast<double>(value);
  mean /= static_cast<double>(values.size());
  for (const float value : values) {
    const double distance = static_cast<double>(value) - mean;
    variance += distance * distance;
  }
  const double scale = 1.0 / std::sqrt(variance / static_cast<double>(values.size()) + 1e-7);
  for (float& value : values) value = static_cast<float>((static_cast<double>(value) - mean) * scale);
}

class Extractor final : public FeatureExtractor {
 public:
  explicit Extractor(const Settings& settings) : settings_(settings) {}

  Features operator()(std::span<const Waveform> waveforms) const override {
    std::size_t longest = 0;
    for (const Waveform& waveform : waveforms) longest = std::max(longest, waveform.size());
    Features features;
    features.shape = {static_cast<std::int64_t>(waveforms.size()), static_cast<std::int64_t>(longest)};
    features.values.assign(waveforms.size() * longest, static_cast<float>(settings_.padding));
    if (settings_.mask) {
      features.mask.assign(features.values.size(), 0);
      features.mask_length = static_cast<std::int64_t>(longest);
    }
    for (std::size_t i = 0; i < waveforms.size(); ++i) {
      const std::size_t length = waveforms[i].size(), begin = i * longest;
      MMTUNE_ASSERT(length > 0);
      std::copy(waveforms[i].begin(), waveforms[i].end(), features.values.begin() + static_cast<std::ptrdiff_t>(begin));
      if (settings_.mask) std::fill_n(features.mask.begin() + static_cast<std::ptrdiff_t>(begin), length, 1);
      if (!settings_.normalise) continue;
      // Without a mask transformers' class does not know what was padding, and normalises it too.
      const std::span<float> row(features.values);
      normalise(settings_.mask ? row.subspan(begin, length) : row.subspan(i * longest, longest));
    }
    return features;
  }

  std::int64_t rate() const override { return settings_.rate; }
  std::string_view input_name() const override { return "input_values"; }
  bool gives_waveforms() const override { return true; }

  std::string describe() const override {
    return "samples at " + std::to_string(settings_.rate) + " Hz" + (settings_.normalise ? ", normalised" : "") +
           (settings_.mask ? ", with a mask" : ", without a mask") + ", padded with " + std::to_string(settings_.padding);
  }

 private:
  Settings settings_;
};

}  // namespace

std::unique_ptr<FeatureExtractor> make_wav2vec2_extractor(const ExtractorFields& fields) {
  fields.integer("feature_size", 1, 1, 1);
  fields.text("padding_side", "right", {"right"});  // the models count real samples from the left
  return std::make_unique<Extractor>(Settings{.rate = fields.rate(16'000),
                                              .normalise = fields.flag("do_normalize", true),
                                              .mask = fields.flag("return_attention_mask", false),
                                              .padding = fields.number("padding_value", 0.0)});
}

}  // namespace mmtune::audio
