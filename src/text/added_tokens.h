#pragma once
// Added tokens: the `added_tokens` section of tokenizer.json. They are cut out of a text before the model sees it.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/json.h"
#include "text/aligned_text.h"
#include "text/normalizer.h"
#include "text/vocabulary.h"

namespace mmtune::text {

struct AddedToken {
  std::string content;
  std::int64_t id = 0;
  bool special = false;
  bool single_word = false;  ///< matches only where no word character stands beside it
  bool lstrip = false;       ///< takes the white space on its left with it
  bool rstrip = false;       ///< takes the white space on its right with it
  bool normalized = false;   ///< is looked for, normalised, in the normalised text
};

/// A part of a text: an added token's occurrence, or what lies between (token == nullptr). Parts of tokens that strip can overlap.
struct Segment {
  Range range;
  const AddedToken* token;
};

/// Finds tokens in a text: the leftmost, of those the longest, without overlap.
class TokenFinder {
 public:
  TokenFinder() = default;
  /// `patterns` beside `tokens`; tokens must outlive this. Of equal patterns the first wins.
  TokenFinder(std::vector<std::u32string> patterns, std::vector<const AddedToken*> tokens);

  bool empty() const { return patterns_.empty(); }
  /// Segments that cover `chars`, in order; none is empty.
  void split(std::span<const Char> chars, std::vector<Segment>& out) const;

 private:
  struct Pattern {
    std::u32string codes;
    const AddedToken* token;
  };
  const Pattern* longest_at(std::span<const Char> chars, std::size_t at) const;
  bool may_begin(char32_t code) const { return code < starts_.size() ? starts_[code] : starts_beyond_; }

  std::vector<Pattern> patterns_;  ///< sorted by codes
  std::vector<bool> starts_;       ///< ASCII code points that begin a pattern
  bool starts_beyond_ = false;     ///< whether any other code point does
};

/// The added tokens of a tokenizer.
class AddedTokens {
 public:
  AddedTokens() = default;
  /// Throws Error naming `where` if a token is empty, normalises to nothing, stands there twice, or has another id than the vocabulary or
  /// its place behind the vocabulary gives it.
  AddedTokens(std::vector<AddedToken> tokens, const Vocabulary& vocabulary, const Normalizer* normalizer, const std::string& where);
  AddedTokens(AddedTokens&&) = default;
  AddedTokens& operator=(AddedTokens&&) = default;
  AddedTokens(const AddedTokens&) = delete;
  AddedTokens& operator=(const AddedTokens&) = delete;

  std::span<const AddedToken> tokens() const { return tokens_; }
  const TokenFinder& in_original() const { return in_original_; }
  const TokenFinder& in_normalized() const { return in_normalized_; }
  std::optional<std::int64_t> find(std::string_view content) const;
  const AddedToken* token_of(std::int64_t id) const;
  /// Whether it is the content of a special token.
  bool is_special(std::string_view content) const;

 private:
  std::vector<AddedToken> tokens_;
  std::vector<std::pair<std::string_view, const AddedToken*>> by_content_;  ///< sorted
  std::vector<std::pair<std::int64_t, const AddedToken*>> by_id_;           ///< sorted
  TokenFinder in_original_;
  TokenFinder in_normalized_;
};

/// Reads the list of a tokenizer.json.
std::vector<AddedToken> read_added_tokens(const Json& list, const std::string& where);

}  // namespace mmtune::text
