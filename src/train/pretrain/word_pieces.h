#pragma once
// A BERT's word pieces cut down to the most useful, for models whose table of words must be small.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace mmtune::train {

struct WordPieces {
  std::vector<std::string> tokens;  ///< [PAD], [UNK], [CLS], [SEP], [MASK], then by the order of the vocabulary they come from
  std::vector<std::int64_t> rows;   ///< of each in that vocabulary
  bool lowercase = true;

  static constexpr std::int64_t padding = 0, separator = 3, mask = 4, specials = 5;
  /// Writes vocab.txt and tokenizer_config.json, as transformers' BertTokenizer reads them.
  void write(const std::filesystem::path& folder, std::int64_t longest) const;
};

/// At most `count` pieces of the tokenizer in the model folder `model`: the special ones, single ASCII characters, those that `texts` are
/// made of, by how often, and as many of the others as fit, first ones first (a BERT's pieces are in the order of their frequency).
/// Throws Error: the folder has no WordPiece tokenizer with the special pieces, or `count` is less than the first two kinds.
WordPieces choose_word_pieces(const std::filesystem::path& model, const std::vector<std::string>& texts, std::int64_t count);

/// The embeddings [pieces, width] of the pieces in the BERT in `model`, as its `width` strongest directions, with deviation `deviation`.
at::Tensor embeddings_of(const WordPieces& pieces, const std::filesystem::path& model, std::int64_t width, double deviation);

}  // namespace mmtune::train
