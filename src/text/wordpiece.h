#pragma once
// WordPiece: greedy longest match from the left (Schuster and Nakajima 2012, as BERT uses it).

#include <memory>
#include <string>

#include "text/json_fields.h"
#include "text/model.h"

namespace mmtune::text {

struct WordPieceOptions {
  std::string unknown_token = "[UNK]";
  std::string continuing_prefix = "##";  ///< stands before every token of a word but the first
  std::int64_t longest_word = 100;       ///< code points; a longer word is unknown
};

/// Throws Error naming `where` if the vocabulary lacks the unknown token.
std::unique_ptr<Model> make_wordpiece(Vocabulary vocabulary, const WordPieceOptions& options, const std::string& where);

/// Reads the fields of a WordPiece model.
std::unique_ptr<Model> read_wordpiece(JsonFields& fields);

}  // namespace mmtune::text
