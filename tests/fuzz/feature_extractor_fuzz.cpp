// preprocessor_config.json of a feature extractor, and what it makes of two short sounds.

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "audio/feature_extractor.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mmtune;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  // What is valid may ask for a minute of work; inputs of many digits are where that lies.
  if (text.find("00000") != std::string_view::npos || text.find('9') != std::string_view::npos) return 0;
  try {
    const auto extractor = audio::FeatureExtractor::from_json(parse_json(text, "input"), "input");
    const std::vector<float> one(700, 0.25F), other(1000, -0.5F);
    const audio::FeatureExtractor::Waveform waveforms[] = {one, other};
    const audio::Features features = (*extractor)(waveforms);
    std::size_t count = 1;
    for (const std::int64_t side : features.shape) count *= static_cast<std::size_t>(side);
    MMTUNE_ASSERT(count == features.values.size() && !extractor->describe().empty());
  } catch (const Error&) {
  }
  return 0;
}
