#pragma once
// Pre-tokenizers: the `pre_tokenizer` section of tokenizer.json. They split a normalised text into the words that the model sees.

#include <memory>
#include <string>
#include <vector>

#include "core/json.h"
#include "text/pre_tokenized.h"

namespace mmtune::text {

/// Splits words further, and may rewrite them. One object serves many threads.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(PreTokenized& text) const = 0;
};

std::unique_ptr<PreTokenizer> make_bert_pre_tokenizer();
/// The matches of CLIP's expression, spelled in bytes.
std::unique_ptr<PreTokenizer> make_clip_pre_tokenizer();

/// Reads a pre-tokenizer: BertPreTokenizer, Whitespace, WhitespaceSplit, Punctuation, Split (by the patterns of patterns.h), ByteLevel,
/// Metaspace, Sequence. Throws Error naming `where` and the component.
std::unique_ptr<PreTokenizer> read_pre_tokenizer(const Json& json, const std::string& where);

}  // namespace mmtune::text
