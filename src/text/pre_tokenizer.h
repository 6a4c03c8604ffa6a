#pragma once
// Pre-tokenizers: the `pre_tokenizer` section of tokenizer.json. They split a normalised text into the words that the model sees.

#include <memory>
#include <string>
#include <vector>

#include "core/json.h"
#include "text/aligned_text.h"

namespace mmtune::text {

/// Splits words further. One object serves many threads.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  /// Appends to `out` the words (not empty, in order) that `word` of `text` splits into.
  virtual void split(const AlignedText& text, Range word, std::vector<Range>& out) const = 0;
};

std::unique_ptr<PreTokenizer> make_bert_pre_tokenizer();

/// Reads a pre-tokenizer: BertPreTokenizer, Whitespace, WhitespaceSplit, Punctuation, Sequence. Throws Error naming `where` and the
/// component.
std::unique_ptr<PreTokenizer> read_pre_tokenizer(const Json& json, const std::string& where);

}  // namespace mmtune::text
