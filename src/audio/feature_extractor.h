#pragma once
// Feature extractors as described by preprocessor_config.json: from waveforms to the tensors that a model takes.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "audio/sound.h"
#include "core/json.h"

namespace mmtune::audio {

/// What to do with a sound of another sample rate than the model's.
enum class OtherRates { resample, refuse };

/// The sound at `rate`, by resample(). Throws Error naming `where` where it has another one and that is to be refused.
Sound at_rate(Sound sound, std::int64_t rate, OtherRates other_rates, const std::string& where);

/// A batch of features, the first axis being the batch.
struct Features {
  std::vector<std::int64_t> shape;
  std::vector<float> values;
  std::vector<std::int64_t> mask;          ///< [batch, mask_length], 1 for what is real; empty where the extractor gives none
  std::int64_t mask_length = 0;            ///< samples or frames
  std::vector<std::uint8_t> sound_longer;  ///< CLAP's is_longer [batch, 1]; otherwise empty
};

class FeatureExtractor {
 public:
  using Waveform = std::span<const float>;

  /// Reads preprocessor_config.json of a model folder, or the part of processor_config.json that newer saves have instead. Throws Error: an
  /// unknown feature_extractor_type, a field of the wrong type or out of range.
  static std::unique_ptr<FeatureExtractor> open(const std::filesystem::path& folder);
  /// Whether open() finds one of these extractors named there, and not something else's configuration or none.
  static bool is_in(const std::filesystem::path& folder);
  static std::unique_ptr<FeatureExtractor> from_json(const Json& config, const std::string& where);

  virtual ~FeatureExtractor() = default;
  /// What transformers' class of that name makes of waveforms of rate() with padding = True, each with at least one sample. Throws Error
  /// where a waveform is too short for one frame.
  virtual Features operator()(std::span<const Waveform> waveforms) const = 0;
  virtual std::int64_t rate() const = 0;
  /// "input_values" or "input_features".
  virtual std::string_view input_name() const = 0;
  /// Whether a waveform's own values are all that there is to a row of input_values: what a model with convolutions of its own takes.
  virtual bool gives_waveforms() const { return false; }
  /// One line that tells every setting, for cache keys and run records.
  virtual std::string describe() const = 0;
};

}  // namespace mmtune::audio
