#pragma once
// SentencePiece's model files (tokenizer.model, spiece.model): a strict reader of the protocol buffer.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mmtune::text {

enum class PieceType { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct Piece {
  std::string text;
  float score = 0;
  PieceType type = PieceType::normal;
};

enum class SentencePieceKind { unigram, bpe };

/// What of a model file decides encoding and decoding, with the format's defaults.
struct SentencePieceFile {
  std::vector<Piece> pieces;  ///< by id
  SentencePieceKind kind = SentencePieceKind::unigram;
  bool byte_fallback = false;
  std::string unknown_surface = " \xE2\x81\x87 ";  ///< what an unknown token decodes to
  std::string charsmap;                            ///< empty: the identity
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

/// Reads a ModelProto. Fields that it does not know are skipped. Throws Error naming `where` and the place: on a length beyond the file, a
/// known field of another wire type, an empty or repeated piece or one that is not UTF-8, a score that is no number, none or two unknown
/// pieces, byte pieces that do not fit byte_fallback, word and char models, whitespace as a suffix, and a denormalizer.
SentencePieceFile read_sentencepiece_file(std::string_view bytes, const std::string& where);

}  // namespace mmtune::text
