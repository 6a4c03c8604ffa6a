#pragma once
// Byte-pair encoding as SentencePiece does it: two neighbours merge where what they make is a piece, the piece of the highest score first.

#include <memory>

#include "text/byte_trie.h"
#include "text/model.h"
#include "text/sentencepiece_file.h"

namespace mmtune::text {

/// The user-defined symbols of a model, which stay whole.
ByteTrie user_defined_symbols(const SentencePieceFile& file);

/// `vocabulary` holds the pieces by id; `unknown` is the id of the unknown one.
std::unique_ptr<Model> make_sentencepiece_bpe(const SentencePieceFile& file, Vocabulary vocabulary, std::int64_t unknown);

}  // namespace mmtune::text
