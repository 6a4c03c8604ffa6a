#pragma once
// A text on its way through a tokenizer: code points that remember which part of the original they stand for.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mmtune::text {

/// A code point of the normalised text and the code points [begin, end) of the original that it stands for.
struct Char {
  char32_t code;
  std::uint32_t begin;
  std::uint32_t end;
};

/// One code point of a rewritten text. `change` says how it relates to the text before:
/// 0 it replaces the next old code point; 1 it is new and shares the place of the last one consumed;
/// −n it replaces the next one and n more after that one are dropped.
struct Edit {
  char32_t code;
  std::int32_t change;
};

/// A range of positions in an AlignedText.
struct Range {
  std::uint32_t begin;
  std::uint32_t end;
};

/// Decodes UTF-8 (see next_code_point); throws Error on a text of 2^31 bytes or more. Offsets count code points from 0.
void decode(std::string_view utf8, std::vector<Char>& out);

/// The text with its alignment. Holds its buffers, so that one object serves many texts without allocating. Throws Error where a text
/// grows beyond any honest normalisation: 64 times its length and a million code points.
class AlignedText {
 public:
  /// Takes over a part of the original.
  void assign(std::span<const Char> chars);

  std::span<const Char> chars() const { return chars_; }
  std::size_t size() const { return chars_.size(); }
  bool empty() const { return chars_.empty(); }
  bool is_ascii() const { return ascii_; }

  /// Replaces the text; the first `dropped` old code points are left out before the first edit.
  void rewrite(std::span<const Edit> edits, std::size_t dropped);

  /// Keeps the code points that `keep` holds true for.
  template <typename Keep>
  void filter(Keep keep) {
    std::erase_if(chars_, [&](const Char& c) { return !keep(c.code); });
    refresh();
  }

  /// Puts `content` in the place of each of the ranges, which are in order, not empty and apart. The new code points stand for what the
  /// last one of the range stood for.
  void replace(std::span<const Range> ranges, std::u32string_view content);

  /// Exchanges the text for `chars`, whose places lie in the original and do not go back; the buffer holds the old text then.
  void exchange(std::vector<Char>& chars);

  /// Keeps only the positions of `range`.
  void keep_only(Range range);

  /// Replaces code points one by one, in place.
  template <typename Map>
  void map(Map code_of) {
    for (Char& c : chars_) c.code = code_of(c.code);
    refresh();
  }

  /// A buffer for edits, empty on return.
  std::vector<Edit>& edit_buffer();

  /// Appends positions [range.begin, range.end) as UTF-8.
  void append_utf8(std::string& out, Range range) const;

 private:
  void check_size(std::size_t size) const;
  void refresh();

  std::vector<Char> chars_;
  std::vector<Char> rewritten_;
  std::vector<Edit> edits_;
  std::uint32_t origin_ = 0;
  std::size_t limit_ = 0;
  bool ascii_ = true;
};

}  // namespace mmtune::text
