#pragma once
// SentencePiece (Kudo and Richardson 2018): the parts of a tokenizer that work as its own library does.

#include <memory>
#include <string>

#include "text/decoder.h"
#include "text/model.h"
#include "text/normalizer.h"
#include "text/sentencepiece_file.h"

namespace mmtune::text {

/// Where a text gets the space in front that add_dummy_prefix asks for.
enum class DummyPrefix {
  every_part,  ///< of what added tokens cut a text into (LLaMA's `legacy` form, and T5)
  beginning,   ///< only the beginning of the text
};

/// Rules of the table (the longest wins; user-defined symbols are left alone), spaces at the ends and in a row removed, a space put in
/// front, spaces as "▁". A code point begins where the text that it stands for begins, and ends where the next one begins.
std::unique_ptr<Normalizer> make_sentencepiece_normalizer(const SentencePieceFile& file, DummyPrefix prefix, const std::string& where);

/// Byte-pair merges by the score of what they make, or the best path of a unigram model.
std::unique_ptr<Model> make_sentencepiece_model(const SentencePieceFile& file, const std::string& where);

/// Bytes are UTF-8, "▁" a space, and the space in front goes. Control pieces are nothing and an unknown one its surface, or, with
/// `special_as_written`, what they are called: of a folder whose special tokens are left out or shown before this sees them.
std::unique_ptr<Decoder> make_sentencepiece_decoder(const SentencePieceFile& file, bool special_as_written);

}  // namespace mmtune::text
