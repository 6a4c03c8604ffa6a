#pragma once
// Metaspace: a space as a visible symbol ("▁"), which a text may begin with as well. Pre-tokenizer and decoder share its settings.

#include <memory>

#include "text/json_fields.h"
#include "text/pre_tokenizer.h"

namespace mmtune::text {

/// Where the symbol is put before a word that does not begin with it.
enum class PrependScheme {
  always,
  first,  ///< only at the very beginning of a text
  never,
};

struct Metaspace {
  char32_t replacement = U'\u2581';
  PrependScheme prepend = PrependScheme::always;
  bool split = true;  ///< words are cut before each symbol
};

/// Reads the fields in the new spelling (prepend_scheme) and in that of older files (add_prefix_space).
Metaspace read_metaspace(JsonFields& fields);

std::unique_ptr<PreTokenizer> make_metaspace(const Metaspace& settings);

}  // namespace mmtune::text
