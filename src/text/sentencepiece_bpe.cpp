#include "text/sentencepiece_bpe.h"

#include <algorithm>
#include <unordered_map>

#include "core/error.h"
#include "text/byte_trie.h"
#include "text/merge_heap.h"

namespace mmtune::text {

namespace {

class SentencePieceBpe : public Model {
 public:
  SentencePieceBpe(const SentencePieceFile& file, Vocabulary vocabulary, std::int64_t unknown)
      : vocabulary_(std::move(vocabulary)), unknown_(unknown), symbols_(user_defined_symbols(file)) {
    std::vector<float> scores;
    for (const Piece& piece : file.pieces) scores.push_back(piece.score);
    std::sort(scores.begin(), scores.end(), std::greater<>());
    scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
    for (const Piece& piece : file.pieces) {
      const auto place = std::lower_bound(scores.begin(), scores.end(), piece.score, std::greater<>());
      pieces_.push_back({piece.type, static_cast<std::uint32_t>(place - scores.begin()), static_cast<std::uint32_t>(piece.text.size())});
    }
    if (file.byte_fallback) byte_ids_ = byte_ids(vocabulary_);
  }

  void tokenize(std::span<const Char> word, ModelBuffers& buffers, std::vector<Token>& out) const override {
    Work work{buffers, {}};
    spell(word, buffers);
    merge_all(work);
    emit(work, out);
  }

  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  struct Known {
    PieceType type;
    std::uint32_t rank;  ///< by score, the highest 0
    std::uint32_t size;  ///< bytes
  };
  struct Work {
    ModelBuffers& buffers;
    std::unordered_map<std::int64_t, std::uint32_t> cuts;  ///< where an unused piece was put together last
  };
  // Symbol::id is that of the piece that a merge has made, before that kLetter, or kFrozen for a user-defined symbol, which does not merge;
  // `hashes` holds the byte at which each symbol begins.
  static constexpr std::int64_t kLetter = -1;
  static constexpr std::int64_t kFrozen = -2;

  void spell(std::span<const Char> word, ModelBuffers& buffers) const {
    encode_word(word, buffers);
    buffers.symbols.clear();
    buffers.hashes.clear();
    const std::string_view bytes = buffers.bytes;
    for (std::size_t i = 0; i < word.size();) {
      const std::uint32_t begin = buffers.starts[i];
      const std::size_t frozen = symbols_.longest(bytes.substr(begin));
      const std::uint32_t size = frozen > 0 ? static_cast<std::uint32_t>(frozen) : buffers.starts[i + 1] - begin;
      const auto at = static_cast<std::int32_t>(buffers.symbols.size());
      if (at > 0) buffers.symbols.back().next = at;
      buffers.symbols.push_back({frozen > 0 ? kFrozen : kLetter, at - 1, -1, size});
      buffers.hashes.push_back(begin);
      while (i < word.size() && buffers.starts[i] < begin + size) ++i;
    }
  }

  static std::string_view text_of(const ModelBuffers& buffers, std::size_t symbol, std::size_t size) {
    return std::string_view(buffers.bytes).substr(buffers.hashes[symbol], size);
  }

  /// The piece that a merge may make, or −1.
  std::int64_t piece_of(std::string_view text) const {
    if (text.size() > vocabulary_.longest_token()) return -1;
    const auto id = vocabulary_.find(text);
    if (!id) return -1;
    const PieceType type = pieces_[static_cast<std::size_t>(*id)].type;
    const bool merges = type == PieceType::normal || type == PieceType::user_defined || type == PieceType::unused;
    return merges ? *id : -1;
  }

  void propose(std::uint32_t left, Work& work) const {
    auto& symbols = work.buffers.symbols;
    const Symbol& first = symbols[left];
    if (first.next < 0) return;
    const Symbol& second = symbols[static_cast<std::size_t>(first.next)];
    if (first.id == kFrozen || second.id == kFrozen) return;
    const std::int64_t id = piece_of(text_of(work.buffers, left, first.bytes + second.bytes));
    if (id < 0) return;
    const Known& known = pieces_[static_cast<std::size_t>(id)];
    work.buffers.candidates.push_back({known.rank, left, id});
    if (known.type == PieceType::unused) work.cuts[id] = first.bytes;
  }

  void merge_all(Work& work) const {
    // A candidate is out of date when its symbols no longer make a piece of its length.
    merge_symbols(
        work.buffers, [&](std::uint32_t position) { propose(position, work); },
        [this](const Symbol& left, const Symbol& right, const MergeCandidate& candidate) {
          return left.bytes + right.bytes == pieces_[static_cast<std::size_t>(candidate.id)].size;
        });
  }

  void emit(Work& work, std::vector<Token>& out) const {
    std::uint32_t at = 0;
    bool after_unknown = false;
    for (std::size_t i = 0; i < work.buffers.symbols.size(); ++i) {
      const Symbol& symbol = work.buffers.symbols[i];
      if (symbol.bytes == 0) continue;
      const auto begin = static_cast<std::uint32_t>(work.buffers.hashes[i]);
      emit(work, symbol.id >= 0 ? symbol.id : id_of(work, begin, symbol.bytes), begin, symbol.bytes, at, after_unknown, out);
    }
  }

  std::int64_t id_of(const Work& work, std::uint32_t begin, std::uint32_t size) const {
    return vocabulary_.find(std::string_view(work.buffers.bytes).substr(begin, size)).value_or(unknown_);
  }

  /// The tokens of some bytes; `at` is the position of the word that they begin at.
  void emit(Work& work, std::int64_t id, std::uint32_t begin, std::uint32_t size, std::uint32_t& at, bool& after_unknown,
            std::vector<Token>& out) const {
    const std::string_view text = std::string_view(work.buffers.bytes).substr(begin, size);
    const PieceType type = pieces_[static_cast<std::size_t>(id)].type;
    if (type == PieceType::unused) {
      if (const auto cut = work.cuts.find(id); cut != work.cuts.end()) {
        const std::uint32_t first = cut->second;
        emit(work, id_of(work, begin, first), begin, first, at, after_unknown, out);
        emit(work, id_of(work, begin + first, size - first), begin + first, size - first, at, after_unknown, out);
        return;
      }
    }
    const std::uint32_t from = at;
    while (at + 1 < work.buffers.starts.size() && work.buffers.starts[at] < begin + size) ++at;
    const bool is_unknown = type == PieceType::unknown;
    if (is_unknown && !byte_ids_.empty()) {
      for (std::size_t i = 0; i < text.size(); ++i) {
        out.push_back({byte_ids_[static_cast<unsigned char>(text[i])], {from, i + 1 == text.size() ? at : from}});
      }
    } else if (is_unknown && after_unknown) {
      out.back().range.end = at;
    } else {
      out.push_back({id, {from, at}, is_unknown});
    }
    after_unknown = is_unknown;
  }

  Vocabulary vocabulary_;
  std::int64_t unknown_;
  ByteTrie symbols_;
  std::vector<Known> pieces_;
  std::vector<std::int64_t> byte_ids_;
};

}  // namespace

std::unique_ptr<Model> make_sentencepiece_bpe(const SentencePieceFile& file, Vocabulary vocabulary, std::int64_t unknown) {
  return std::make_unique<SentencePieceBpe>(file, std::move(vocabulary), unknown);
}

}  // namespace mmtune::text
