// preprocessor_config.json.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "vision/processor.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const std::string_view json(reinterpret_cast<const char*>(data), size);
    MMTUNE_ASSERT(!mmtune::vision::ImageProcessor::from_json(json, "input")->describe().empty());
  } catch (const mmtune::Error&) {
  }
  return 0;
}
