// ClapFeatureExtractor: mel spectrograms in decibels of sounds of one length, on the HTK scale (truncation "fusion") or Slaney's.

#include <algorithm>

#include "audio/extractors.h"
#include "audio/spectrogram.h"
#include "core/error.h"

namespace mmtune::audio {

namespace {

struct Settings {
  std::int64_t rate, mels, hop, seconds, fft;
  double low, high;
  bool fusion;
  std::string padding;
  std::int64_t samples() const { return seconds * rate; }
};

class Extractor final : public FeatureExtractor {
 public:
  explicit Extractor(Settings settings)
      : settings_(std::move(settings)),
        window_(window_of(Window::hann, settings_.fft, true)),
        filters_(mel_filters({.bins = settings_.fft / 2 + 1,
                              .filters = settings_.mels,
                              .low = settings_.low,
                              .high = settings_.high,
                              .rate = settings_.rate,
                              .scale = settings_.fusion ? MelScale::htk : MelScale::slaney,
                              .area_norm = !settings_.fusion})) {}

  Features operator()(std::span<const Waveform> waveforms) const override {
    const SpectrogramOptions options{.window = window_,
                                     .hop = settings_.hop,
                                     .fft = settings_.fft,
                                     .center = true,
                                     .filters = filters_,
                                     .logarithm = Logarithm::decibel};
    const std::int64_t views = settings_.fusion ? 4 : 1;
    Features features;
    features.shape = {static_cast<std::int64_t>(waveforms.size()), views, frame_count(settings_.samples(), options), settings_.mels};
    for (const Waveform& waveform : waveforms) {
      const std::vector<float> levels = log_mel_spectrogram(filled(waveform), options);
      for (std::int64_t view = 0; view < views; ++view) features.values.insert(features.values.end(), levels.begin(), levels.end());
      // With fusion one sound of a batch counts as longer although none is; transformers draws it at random.
      features.sound_longer.push_back(settings_.fusion && features.sound_longer.empty() ? 1 : 0);
    }
    return features;
  }

  std::int64_t rate() const override { return settings_.rate; }
  std::string_view input_name() const override { return "input_features"; }

  std::string describe() const override {
    return "CLAP's mel spectrogram: " + std::to_string(settings_.mels) + " bands of " + std::to_string(settings_.low) + " to " +
           std::to_string(settings_.high) + " Hz, frames of " + std::to_string(settings_.fft) + " every " + std::to_string(settings_.hop) +
           " samples, " + std::to_string(settings_.seconds) + " s at " + std::to_string(settings_.rate) + " Hz, " +
           (settings_.fusion ? "fusion" : "rand_trunc") + ", " + settings_.padding;
  }

 private:
  /// The waveform, repeated where that is asked for and filled up with zeros.
  std::vector<float> filled(const Waveform& waveform) const {
    const auto length = static_cast<std::size_t>(settings_.samples());
    if (waveform.size() > length)
      throw Error({.what = "the sound is longer than the model takes, and random crops of it are not supported",
                   .expected = "at most " + std::to_string(settings_.seconds) + " s",
                   .got = std::to_string(static_cast<double>(waveform.size()) / static_cast<double>(settings_.rate)),
                   .hint = "cut it"});
    std::vector<float> samples;
    samples.reserve(length);
    const std::size_t whole = settings_.padding == "pad" ? waveform.size() : length / waveform.size() * waveform.size();
    const std::size_t end = settings_.padding == "repeat" ? length : whole;
    for (std::size_t i = 0; i < end; ++i) samples.push_back(waveform[i % waveform.size()]);
    samples.resize(length, 0.0F);
    return samples;
  }

  Settings settings_;
  std::vector<double> window_, filters_;
};

}  // namespace

std::unique_ptr<FeatureExtractor> make_clap_extractor(const ExtractorFields& fields) {
  Settings settings{.rate = fields.rate(48'000),
                    .mels = fields.integer("feature_size", 64, 1, 1024),
                    .hop = fields.integer("hop_length", 480, 1, 1 << 16),
                    .seconds = fields.integer("max_length_s", 10, 1, 600),
                    .fft = fields.integer("fft_window_size", 1024, 2, 1 << 14),
                    .low = fields.number("frequency_min", 0.0),
                    .high = fields.number("frequency_max", 14'000.0),
                    .fusion = fields.text("truncation", "fusion", {"fusion", "rand_trunc"}) == "fusion",
                    .padding = fields.text("padding", "repeatpad", {"repeatpad", "repeat", "pad"})};
  if (settings.low < 0.0 || settings.high <= settings.low || settings.high > 1e6)
    fields.refuse("frequency_min and frequency_max are no range of frequencies");
  if (settings.samples() <= settings.fft) fields.refuse("max_length_s is shorter than a frame");
  if (settings.samples() > most_samples || settings.samples() / settings.hop * settings.mels > most_values)
    fields.refuse("max_length_s makes absurdly much");
  return std::make_unique<Extractor>(std::move(settings));
}

}  // namespace mmtune::audio
