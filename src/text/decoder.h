#pragma once
// Decoders: the `decoder` section of tokenizer.json. They make the tokens of a text into that text again.

#include <memory>
#include <string>
#include <vector>

#include "core/json.h"

namespace mmtune::text {

/// Rewrites a list of tokens; a text is what they give one after another. One object serves many threads.
class Decoder {
 public:
  virtual ~Decoder() = default;
  virtual void apply(std::vector<std::string>& tokens) const = 0;
};

/// Byte letters as the bytes that they stand for (byte_level.h), put together and read as UTF-8; a token with any other letter stays.
std::unique_ptr<Decoder> make_byte_level_decoder();
/// A space before every token but the first, except one that begins with `prefix`, which it loses. `cleanup` takes the space before
/// punctuation and English contractions away.
std::unique_ptr<Decoder> make_wordpiece_decoder(std::string prefix, bool cleanup);

/// Reads a decoder: ByteLevel, WordPiece, Metaspace, BPEDecoder, ByteFallback, Fuse, Strip, Replace (of the patterns of patterns.h), CTC,
/// Sequence. Throws Error naming `where` and the component.
std::unique_ptr<Decoder> read_decoder(const Json& json, const std::string& where);

}  // namespace mmtune::text
