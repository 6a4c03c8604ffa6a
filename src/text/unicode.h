#pragma once
// Code points: UTF-8 both ways, and the properties, cases and compositions that the tokenizers' reference package gives them.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mmtune::text {

/// Bits of properties(). The order is that of tools/make_unicode_tables.py.
enum Property : std::uint32_t {
  kControl = 1u << 0,        ///< what BertNormalizer's clean_text removes (controls, formats, private use, U+0000, U+FFFD)
  kWhitespace = 1u << 1,     ///< White_Space
  kNonspacing = 1u << 2,     ///< a mark that BertNormalizer's strip_accents removes
  kCombining = 1u << 3,      ///< a mark that StripAccents removes
  kPunctuation = 1u << 4,    ///< what BertPreTokenizer and Punctuation split on
  kWord = 1u << 5,           ///< \w of the regular expressions
  kCanonical = 1u << 6,      ///< has a canonical decomposition or a combining class
  kCompatibility = 1u << 7,  ///< its compatibility decomposition differs from the canonical one
  kChinese = 1u << 8,        ///< what handle_chinese_chars puts spaces around
  kLetter = 1u << 9,         ///< \p{L} of the regular expressions of ByteLevel and Split
  kNumber = 1u << 10,        ///< \p{N} of the regular expressions of ByteLevel and Split
};

/// The Property bits of a code point.
std::uint32_t properties(char32_t code);

/// What makes up the lower case of a code point: one code point, or two for U+0130. Zeros fill the rest.
std::array<char32_t, 2> to_lower(char32_t code);

/// The decomposition of one code point (canonical, or with `compatibility`), at most 18 code points.
struct Decomposition {
  std::array<char32_t, 18> codes;
  int size = 0;
};
Decomposition decompose(char32_t code, bool compatibility);

/// The canonical combining class.
int combining_class(char32_t code);

/// The primary composite of a starter and what follows it, if there is one.
std::optional<char32_t> compose(char32_t starter, char32_t next);

/// Reads the code point at `position` of UTF-8 and moves on. Ill-formed bytes give U+FFFD, one for each maximal subpart, as
/// Python's errors="replace" does.
char32_t next_code_point(std::string_view utf8, std::size_t& position);

/// Appends a code point as UTF-8.
void append_utf8(std::string& out, char32_t code);

std::u32string to_utf32(std::string_view utf8);

}  // namespace mmtune::text
