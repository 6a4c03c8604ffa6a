#pragma once
// Byte-level text (as in GPT-2): every byte of the UTF-8 stands as one printable code point, so that a vocabulary of 256 letters knows
// every text.

#include <cstdint>
#include <memory>
#include <string_view>

#include "text/pre_tokenizer.h"

namespace mmtune::text {

/// The code point that stands for a byte: printable Latin-1 for itself, the other 68 in order from U+0100 on (a space is U+0120, "Ġ").
char32_t byte_letter(unsigned char byte);

/// Puts a space before a word that does not begin with one (`add_prefix_space`), cuts it by GPT-2's expression (`use_regex`), and spells
/// it in bytes. Each byte stands for the whole code point that it is of.
std::unique_ptr<PreTokenizer> make_byte_level(bool add_prefix_space, bool use_regex);

/// How many spaces (byte-level or white) a token begins and ends with.
struct SpacesAround {
  std::uint32_t leading = 0;
  std::uint32_t trailing = 0;
};
SpacesAround spaces_around(std::string_view token);

}  // namespace mmtune::text
