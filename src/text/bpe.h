#pragma once
// Byte-pair encoding (Sennrich, Haddow and Birch 2016): a word begins as its letters, and neighbours merge by the order of the merges.

#include <memory>
#include <optional>
#include <string>

#include "text/json_fields.h"
#include "text/merges.h"
#include "text/model.h"

namespace mmtune::text {

struct BpeOptions {
  std::optional<std::string> unknown_token;  ///< nullopt: a letter that the vocabulary lacks is left out
  std::string continuing_prefix;             ///< stands before every letter of a word but the first
  std::string end_of_word_suffix;            ///< stands behind the last letter of a word
  bool fuse_unknown = false;                 ///< unknown letters in a row are one unknown token
  bool byte_fallback = false;                ///< an unknown letter becomes its bytes, "<0x00>" to "<0xFF>", where all are known
  bool ignore_merges = false;                ///< a word that is a token stays whole, whatever the merges make of it
};

/// Throws Error naming `where` if the vocabulary lacks the unknown token or what a merge names, or on byte_fallback together with a
/// prefix or a suffix.
std::unique_ptr<Model> make_bpe(Vocabulary vocabulary, const std::vector<MergeNames>& merges, const BpeOptions& options,
                                const std::string& where);

/// Reads the fields of a BPE model. A dropout other than 0 is refused: it makes every encoding another.
std::unique_ptr<Model> read_bpe(JsonFields& fields);

}  // namespace mmtune::text
