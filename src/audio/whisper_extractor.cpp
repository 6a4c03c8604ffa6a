// WhisperFeatureExtractor: 30 seconds of Slaney's log-mel spectrogram, within 8 of its maximum in powers of ten.

#include <algorithm>

#include "audio/extractors.h"
#include "audio/spectrogram.h"

namespace mmtune::audio {

namespace {

struct Settings {
  std::int64_t rate, mels, hop, seconds, fft;
  double padding;
  bool mask;
  std::int64_t samples() const { return seconds * rate; }
  std::int64_t frames() const { return samples() / hop; }
};

class Extractor final : public FeatureExtractor {
 public:
  explicit Extractor(const Settings& settings)
      : settings_(settings),
        window_(window_of(Window::hann, settings.fft, true)),
        filters_(mel_filters({.bins = settings.fft / 2 + 1,
                              .filters = settings.mels,
                              .low = 0.0,
                              .high = 8000.0,
                              .rate = settings.rate,
                              .scale = MelScale::slaney,
                              .area_norm = true})) {}

  Features operator()(std::span<const Waveform> waveforms) const override {
    const auto frames = static_cast<std::size_t>(settings_.frames()), mels = static_cast<std::size_t>(settings_.mels);
    Features features;
    features.shape = {static_cast<std::int64_t>(waveforms.size()), settings_.mels, settings_.frames()};
    features.values.resize(waveforms.size() * mels * frames);
    if (settings_.mask) features.mask_length = settings_.frames();
    for (std::size_t i = 0; i < waveforms.size(); ++i) {
      std::vector<float> samples(static_cast<std::size_t>(settings_.samples()), static_cast<float>(settings_.padding));
      const std::size_t length = std::min(samples.size(), waveforms[i].size());
      std::copy_n(waveforms[i].begin(), length, samples.begin());
      const std::vector<float> levels = log_mel_spectrogram(samples, {.window = window_,
                                                                      .hop = settings_.hop,
                                                                      .fft = settings_.fft,
                                                                      .center = true,
                                                                      .filters = filters_,
                                                                      .logarithm = Logarithm::base10});
      // The last frame, which centring adds, is left out.
      const float floor = *std::max_element(levels.begin(), levels.begin() + static_cast<std::ptrdiff_t>(frames * mels)) - 8.0F;
      float* out = features.values.data() + i * mels * frames;
      for (std::size_t t = 0; t < frames; ++t)
        for (std::size_t m = 0; m < mels; ++m) out[m * frames + t] = (std::max(levels[t * mels + m], floor) + 4.0F) / 4.0F;
      if (!settings_.mask) continue;
      for (std::size_t t = 0; t < frames; ++t) features.mask.push_back(t * static_cast<std::size_t>(settings_.hop) < length ? 1 : 0);
    }
    return features;
  }

  std::int64_t rate() const override { return settings_.rate; }
  std::string_view input_name() const override { return "input_features"; }

  std::string describe() const override {
    return "Whisper's log-mel spectrogram: " + std::to_string(settings_.mels) + " bands, frames of " + std::to_string(settings_.fft) +
           " every " + std::to_string(settings_.hop) + " samples, " + std::to_string(settings_.seconds) + " s at " +
           std::to_string(settings_.rate) + " Hz, padded with " + std::to_string(settings_.padding);
  }

 private:
  Settings settings_;
  std::vector<double> window_, filters_;
};

}  // namespace

std::unique_ptr<FeatureExtractor> make_whisper_extractor(const ExtractorFields& fields) {
  const Settings settings{.rate = fields.rate(16'000),
                          .mels = fields.integer("feature_size", 80, 1, 1024),
                          .hop = fields.integer("hop_length", 160, 1, 1 << 16),
                          .seconds = fields.integer("chunk_length", 30, 1, 600),
                          .fft = fields.integer("n_fft", 400, 2, 1 << 14),
                          .padding = fields.number("padding_value", 0.0),
                          .mask = fields.flag("return_attention_mask", false)};
  if (fields.number("dither", 0.0) != 0.0) fields.refuse("dither adds random noise, which is not supported");
  if (settings.samples() <= settings.fft || settings.frames() < 1) fields.refuse("chunk_length is shorter than a frame");
  if (settings.samples() > most_samples || settings.frames() * settings.mels > most_values)
    fields.refuse("chunk_length makes absurdly much");
  return std::make_unique<Extractor>(settings);
}

}  // namespace mmtune::audio
