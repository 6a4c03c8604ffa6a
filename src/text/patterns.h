#pragma once
// The patterns that texts are split by: a literal, or one of the regular expressions of the published tokenizers. A regular expression is
// recognised by its very text and matched by code of its own; there is no engine, and any other expression is refused.

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "text/aligned_text.h"

namespace mmtune::text {

/// A part of a word, and whether it is a match of the pattern or what lies between matches.
struct Match {
  Range range;
  bool is_match;
};

/// One object serves many threads.
class Pattern {
 public:
  virtual ~Pattern() = default;
  /// Appends parts that cover `word`, a range of `chars`, in order and none of them empty. Matches are found from the left, without
  /// overlap, as if the word were the whole text.
  virtual void find(std::span<const Char> chars, Range word, std::vector<Match>& out) const = 0;
};

/// The end of the match of GPT-2's expression at `at` < word.end. The matches cover every text:
/// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
std::uint32_t gpt2_match(std::span<const Char> chars, std::uint32_t at, std::uint32_t end);

/// A literal (not empty).
std::unique_ptr<Pattern> make_literal_pattern(std::u32string literal);
/// CLIP's expression: 's|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+, `with_marks` behind <\|startoftext\|>|<\|endoftext\|>|
std::unique_ptr<Pattern> make_clip_pattern(bool with_marks);
/// nullptr where the expression is not one of those known.
std::unique_ptr<Pattern> make_known_expression(std::string_view expression);

/// Reads {"String": …} or {"Regex": …}. Throws Error naming `where` and the expression.
std::unique_ptr<Pattern> read_pattern(const Json& json, const std::string& where);

}  // namespace mmtune::text
