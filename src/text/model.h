#pragma once
// Models: the `model` section of tokenizer.json. They cut a word into tokens of the vocabulary.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/json.h"
#include "text/aligned_text.h"
#include "text/vocabulary.h"

namespace mmtune::text {

/// A token and the positions of the word that it covers.
struct Token {
  std::int64_t id;
  Range range;           ///< empty: it begins and ends where the position begins
  bool spelled = false;  ///< an unknown token that is called by its own text
};

/// A symbol of a word that byte-pair merges work on.
struct Symbol {
  std::int64_t id;
  std::int32_t previous, next;  ///< −1: none
  std::uint32_t bytes;          ///< of the word that it covers; 0: merged away
};

/// A merge that may be done: of the symbol at `position` and the next one.
struct MergeCandidate {
  std::uint32_t rank;
  std::uint32_t position;
  std::int64_t id;
};

/// The best way to reach a position of a word.
struct PathNode {
  double score;
  std::int32_t begin;  ///< of the last piece; −1: not reached
  std::int64_t id;     ///< of the last piece
};

/// Buffers that a model may use between calls, one object a thread.
struct ModelBuffers {
  std::string bytes;
  std::vector<std::uint32_t> starts;
  std::vector<std::uint64_t> hashes;
  std::vector<Symbol> symbols;
  std::vector<MergeCandidate> candidates;
  std::vector<PathNode> path;
};

/// The word as UTF-8 in `bytes`, and in `starts` the byte at which each position begins, then the end.
void encode_word(std::span<const Char> word, ModelBuffers& buffers);

/// The ids of "<0x00>" to "<0xFF>", −1 where the vocabulary lacks one.
std::vector<std::int64_t> byte_ids(const Vocabulary& vocabulary);

/// Cuts words into tokens. One object serves many threads.
class Model {
 public:
  virtual ~Model() = default;
  /// Appends the tokens of a word (not empty). The word counts its positions from 0.
  virtual void tokenize(std::span<const Char> word, ModelBuffers& buffers, std::vector<Token>& out) const = 0;
  virtual const Vocabulary& vocabulary() const = 0;
};

/// Reads a model: WordPiece, BPE, Unigram. Throws Error naming `where` and the component.
std::unique_ptr<Model> read_model(const Json& json, const std::string& where);

}  // namespace mmtune::text
