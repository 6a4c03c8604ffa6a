#pragma once
// A piece of text on its way through the pre-tokenizers: code points, and the words that they have been cut into so far.

#include <cstdint>
#include <span>
#include <vector>

#include "text/aligned_text.h"

namespace mmtune::text {

/// Holds its buffers, so that one object serves many texts without allocating.
class PreTokenized {
 public:
  /// One word. `chars` is not copied and must outlive the use.
  void assign(std::span<const Char> chars) {
    chars_ = chars;
    words_.assign(1, {0, static_cast<std::uint32_t>(chars.size())});
  }

  std::span<const Char> chars() const { return chars_; }
  /// Ranges of chars(); none is empty unless the piece is.
  std::span<const Range> words() const { return words_; }

  /// Cuts every word: `cut(chars, word, out)` appends ranges of the same code points, in order and none of them empty.
  template <typename Cut>
  void split(Cut cut) {
    next_words_.clear();
    for (const Range& word : words_) cut(chars_, word, next_words_);
    words_.swap(next_words_);
  }

  /// Rewrites every word, cutting it on the way: `rewrite(word's code points, chars, words)` appends code points to `chars` and ranges of
  /// `chars` to `words`.
  template <typename Rewrite>
  void rewrite(Rewrite rewrite) {
    next_words_.clear();
    next_chars_.clear();
    for (const Range& word : words_) rewrite(chars_.subspan(word.begin, word.end - word.begin), next_chars_, next_words_);
    words_.swap(next_words_);
    own_chars_.swap(next_chars_);
    chars_ = own_chars_;
  }

 private:
  std::span<const Char> chars_;
  std::vector<Char> own_chars_, next_chars_;
  std::vector<Range> words_, next_words_;
};

}  // namespace mmtune::text
