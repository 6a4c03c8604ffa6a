#pragma once
// From words to the token ids of a multimodal language model: every family's own pieces around picture and instruction, each tokenised by
// itself as the released code does it.

#include <filesystem>
#include <memory>
#include <string_view>

#include "backbones/multimodal_lm.h"
#include "text/tokenizer.h"

namespace mmtune::backbones {

class MultimodalText {
 public:
  /// Opens the tokenizers of a model folder (for the Q-Former: its subfolder qformer_tokenizer, where there is one) and sets
  /// model.format() to the family's. Throws Error where the family needs a tokenizer that is missing.
  static MultimodalText open(const std::filesystem::path& folder, MultimodalLm& model);

  /// "This is a photo of a" → its ids for the language model, and for a Q-Former that reads it.
  Instruction instruction(std::string_view text) const;
  /// An answer with its end symbol, as it is trained on. Throws Error where the text has no tokens.
  TokenIds answer(std::string_view text) const;
  /// A candidate as it is scored in `format`. Throws Error where the text has no tokens.
  TokenIds candidate(std::string_view text, SequenceFormat format = SequenceFormat::official) const;
  const text::Tokenizer& tokenizer() const { return *tokenizer_; }

 private:
  MultimodalText() = default;
  TokenIds tokens(std::string_view text) const;

  std::shared_ptr<const text::Tokenizer> tokenizer_, qformer_tokenizer_;
  MultimodalFamily family_ = MultimodalFamily::llava;
  TokenIds answer_end_;
};

}  // namespace mmtune::backbones
