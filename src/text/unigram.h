#pragma once
// The unigram language model (Kudo 2018): of all ways to cut a text into pieces, the one with the largest sum of scores.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "text/json_fields.h"
#include "text/model.h"

namespace mmtune::text {

/// Which of the two implementations the sums and the unknown are as in.
enum class UnigramStyle {
  tokenizers,     ///< the `tokenizers` package: sums in double precision
  sentencepiece,  ///< sums rounded to single precision; the last of a character's bytes covers it
};

struct UnigramOptions {
  UnigramStyle style = UnigramStyle::tokenizers;
  std::vector<double> scores;           ///< by id, from 0 without gaps
  std::vector<bool> in_text;            ///< by id: whether the piece can be met in a text; empty: all
  double unknown_score = 0;             ///< of a character that no piece is for
  std::optional<std::int64_t> unknown;  ///< nullopt: such a character is an error
  bool byte_fallback = false;           ///< such a character becomes its bytes, "<0x00>" to "<0xFF>", where all are known
};

/// The vocabulary's ids go from 0 without gaps. Throws Error naming `where` on an unknown token that is not in it.
std::unique_ptr<Model> make_unigram(Vocabulary vocabulary, UnigramOptions options, std::string where);

/// Reads the fields of a Unigram model.
std::unique_ptr<Model> read_unigram(JsonFields& fields);

}  // namespace mmtune::text
