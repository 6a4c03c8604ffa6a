#pragma once
// The special tokens of a folder without tokenizer.json: those that its class has, by tokenizer_config.json or by default.

#include <string_view>
#include <utility>
#include <vector>

#include "text/added_tokens.h"
#include "text/tokenizer_config.h"
#include "text/vocabulary.h"

namespace mmtune::text {

/// A special token that the class has where the configuration does not say otherwise. nullptr: none.
struct SpecialTokenDefault {
  const char* key;
  const char* otherwise;
};

class SpecialTokens {
 public:
  /// `defaults` in the order in which transformers adds them; a token that the vocabulary lacks gets the next id behind it and behind
  /// `added`, the tokens that the folder lists (their ids ascend).
  SpecialTokens(const std::vector<SpecialTokenDefault>& defaults, const TokenizerConfig& config, const Vocabulary& vocabulary,
                std::vector<AddedToken> added);

  /// The token of a key that has one.
  const AddedToken& named(std::string_view key) const;
  bool has(std::string_view key) const;
  /// All added tokens, the listed ones first.
  std::vector<AddedToken> take() { return std::move(added_); }

 private:
  std::vector<AddedToken> added_;
  std::vector<std::pair<std::string_view, AddedToken>> named_;
};

}  // namespace mmtune::text
