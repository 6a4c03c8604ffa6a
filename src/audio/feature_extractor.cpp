#include "audio/feature_extractor.h"

#include <algorithm>
#include <array>
#include <utility>

#include "audio/extractors.h"
#include "audio/resample.h"
#include "core/error.h"

namespace mmtune::audio {

namespace {

struct Registration {
  std::string_view type;
  std::unique_ptr<FeatureExtractor> (*make)(const ExtractorFields& fields);
};
constexpr std::array<Registration, 5> registrations = {{{"Wav2Vec2FeatureExtractor", make_wav2vec2_extractor},
                                                        {"WhisperFeatureExtractor", make_whisper_extractor},
                                                        {"ASTFeatureExtractor", make_ast_extractor},
                                                        {"SeamlessM4TFeatureExtractor", make_seamless_extractor},
                                                        {"ClapFeatureExtractor", make_clap_extractor}}};

/// Old checkpoints leave the type to the architecture.
constexpr std::array<std::pair<std::string_view, std::string_view>, 6> defaults = {
    {{"wav2vec2", "Wav2Vec2FeatureExtractor"},
     {"hubert", "Wav2Vec2FeatureExtractor"},
     {"wavlm", "Wav2Vec2FeatureExtractor"},
     {"whisper", "WhisperFeatureExtractor"},
     {"audio-spectrogram-transformer", "ASTFeatureExtractor"},
     {"clap", "ClapFeatureExtractor"}}};

constexpr std::size_t most_bytes = std::size_t{16} << 20;

std::string known_types() {
  std::string list;
  for (const Registration& entry : registrations) list += (list.empty() ? "" : ", ") + std::string(entry.type);
  return list;
}

bool is_known(const std::string& type) {
  return std::any_of(registrations.begin(), registrations.end(), [&](const Registration& entry) { return entry.type == type; });
}

std::string text_of(const Json& object, const char* key) {
  if (!object.is_object()) return {};
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

/// A configuration with the file that it is from; null without one.
struct Found {
  Json config;
  std::string where;
};

Found find_config(const std::filesystem::path& folder) {
  std::error_code ignored;
  Found found{Json(), (folder / "preprocessor_config.json").string()};
  if (std::filesystem::exists(found.where, ignored)) {
    found.config = read_json_file(found.where, most_bytes);
  } else if (const std::filesystem::path whole = folder / "processor_config.json"; std::filesystem::exists(whole, ignored)) {
    found.where = whole.string();
    const Json processor = read_json_file(whole, most_bytes);
    if (processor.is_object() && processor.contains("feature_extractor")) found.config = processor["feature_extractor"];
  }
  if (const std::filesystem::path model = folder / "config.json";
      found.config.is_object() && text_of(found.config, "feature_extractor_type").empty() && std::filesystem::exists(model, ignored)) {
    const std::string model_type = text_of(read_json_file(model, most_bytes), "model_type");
    for (const auto& [name, type] : defaults)
      if (model_type == name) found.config["feature_extractor_type"] = type;
  }
  return found;
}

}  // namespace

Sound at_rate(Sound sound, std::int64_t rate, OtherRates other_rates, const std::string& where) {
  if (sound.rate != rate && other_rates == OtherRates::refuse)
    throw Error({.what = "the sound has another sample rate than the model",
                 .where = where,
                 .expected = std::to_string(rate) + " Hz",
                 .got = std::to_string(sound.rate),
                 .hint = "resample it, or allow resampling here"});
  return resample(std::move(sound), rate);
}

bool FeatureExtractor::is_in(const std::filesystem::path& folder) {
  return is_known(text_of(find_config(folder).config, "feature_extractor_type"));
}

std::unique_ptr<FeatureExtractor> FeatureExtractor::open(const std::filesystem::path& folder) {
  const Found found = find_config(folder);
  if (found.config.is_null())
    throw Error({.what = "the model has no feature extractor", .where = folder.string(), .expected = "preprocessor_config.json"});
  return from_json(found.config, found.where);
}

std::unique_ptr<FeatureExtractor> FeatureExtractor::from_json(const Json& config, const std::string& where) {
  if (!config.is_object()) throw Error({.what = "not a JSON object", .where = where});
  const std::string type = text_of(config, "feature_extractor_type");
  for (const Registration& entry : registrations)
    if (entry.type == type) return entry.make(ExtractorFields(config, where));
  throw Error({.what = type.empty() ? "feature_extractor_type is missing" : "unknown feature_extractor_type",
               .where = where,
               .expected = known_types(),
               .got = printable(type)});
}

}  // namespace mmtune::audio
