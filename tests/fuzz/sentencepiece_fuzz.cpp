// Hostile SentencePiece models: refused with an Error, or a tokenizer whose encodings hold together and whose ids decode.
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/error.h"
#include "encoding_checks.h"
#include "text/pipeline.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mmtune;
  const std::string model(reinterpret_cast<const char*>(data), size);
  const Json config = Json::object();
  std::unique_ptr<text::Tokenizer> tokenizer;
  try {
    tokenizer = text::make_pipeline(text::read_sentencepiece_folder({.model = model,
                                                                     .model_where = "fuzz",
                                                                     .config = config,
                                                                     .config_where = "config",
                                                                     .added = nullptr,
                                                                     .added_where = "",
                                                                     .model_type = ""}));
  } catch (const Error&) {
    return 0;
  }
  for (const std::string_view text :
       {"", "  A caf\xC3\xA9, \xE4\xB8\xAD\xE6\x96\x87 ", "e\xCC\x81\xFF x<tag>  the theab\xE2\x96\x81", "aaaaaaaaab"}) {
    fuzz::check_encodings(*tokenizer, text);
    try {
      tokenizer->decode(tokenizer->encode(text).ids);
    } catch (const Error&) {
      // A table of normalisations may point outside itself.
    }
  }
  return 0;
}
