#pragma once
// What every encoding of every tokenizer must hold to.

#include <algorithm>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "text/tokenizer.h"

namespace mmtune::fuzz {

inline void check_encoding(const text::Encoding& encoding, std::int64_t longest_text) {
  const std::size_t size = encoding.ids.size();
  MMTUNE_ASSERT(encoding.type_ids.size() == size && encoding.attention_mask.size() == size);
  MMTUNE_ASSERT(encoding.special_tokens_mask.size() == size && encoding.offsets.size() == size && encoding.tokens.size() == size);
  for (std::size_t i = 0; i < size; ++i) {
    MMTUNE_ASSERT(encoding.ids[i] >= 0 && encoding.ids[i] <= 0x7FFFFFFF);
    const auto [begin, end] = encoding.offsets[i];
    MMTUNE_ASSERT(begin >= 0 && begin <= end && end <= longest_text);
  }
}

/// Encodes `text` alone and with itself, whole and cut.
inline void check_encodings(const text::Tokenizer& tokenizer, std::string_view text) {
  for (const std::optional<std::int64_t> length : {std::optional<std::int64_t>(), std::optional<std::int64_t>(5)}) {
    try {
      const text::EncodeOptions options{.add_special_tokens = !length, .max_length = length, .with_tokens = true};
      const text::Encoding one = tokenizer.encode(text, options);
      check_encoding(one, static_cast<std::int64_t>(text.size()));
      check_encoding(tokenizer.encode_pair(text, text, options), static_cast<std::int64_t>(text.size()));
    } catch (const Error&) {
      // A file may ask for a truncation that this text cannot have, or for a normalisation without bounds.
    }
  }
}

}  // namespace mmtune::fuzz
