// parse_json: an Error or a value that survives being written and read again.

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/error.h"
#include "core/json.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  mmtune::Json value;
  try {
    value = mmtune::parse_json(text, "fuzz");
  } catch (const mmtune::Error&) {
    return 0;
  }
  if (mmtune::parse_json(value.dump(), "again") != value) std::abort();
  return 0;
}
