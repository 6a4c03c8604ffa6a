// Hostile tokenizer.json: refused with an Error, or a tokenizer whose encodings hold together.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "encoding_checks.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  std::unique_ptr<mmtune::text::Tokenizer> tokenizer;
  try {
    tokenizer = mmtune::text::Tokenizer::from_json(json, "fuzz");
  } catch (const mmtune::Error&) {
    return 0;
  }
  for (const std::string_view text : {"", "A caf\xC3\xA9, [MASK] \xE4\xB8\xAD\xE6\x96\x87", "e\xCC\x81\xFF x<tag> the theab"}) {
    mmtune::fuzz::check_encodings(*tokenizer, text);
  }
  return 0;
}
