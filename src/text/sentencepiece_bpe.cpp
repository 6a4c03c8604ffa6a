#include "text/sentencepiece_bpe.h"

#include <algorithm>
#include <unordered_map>

#include "core/error.h"
#include "text/unicode.h"
#include "text/unigram.h"

namespace mmtune::text {

namespace {

/// What is done first stands last in the heap's order: the best score, of those the leftmost.
bool later(const MergeCandidate& a, const MergeCandidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

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
    buffers.bytes.clear();
    buffers.starts.clear();
    for (const Char& c : word) {
      buffers.starts.push_back(static_cast<std::uint32_t>(buffers.bytes.size()));
      append_utf8(buffers.bytes, c.code);
    }
    buffers.starts.push_back(static_cast<std::uint32_t>(buffers.bytes.size()));
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

  void propose(std::int32_t left, Work& work) const {
    auto& symbols = work.buffers.symbols;
    if (left < 0) return;
    const Symbol& first = symbols[static_cast<std::size_t>(left)];
    if (first.next < 0) return;
    const Symbol& second = symbols[static_cast<std::size_t>(first.next)];
    if (first.id == kFrozen || second.id == kFrozen) return;
    const std::int64_t id = piece_of(text_of(work.buffers, static_cast<std::size_t>(left), first.bytes + second.bytes));
    if (id < 0) return;
    const Known& known = pieces_[static_cast<std::size_t>(id)];
    work.buffers.candidates.push_back({known.rank, static_cast<std::uint32_t>(left), id});
    if (known.type == PieceType::unused) work.cuts[id] = first.bytes;
  }

  void merge_all(Work& work) const {
    auto& symbols = work.buffers.symbols;
    auto& candidates = work.buffers.candidates;
    candidates.clear();
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) propose(static_cast<std::int32_t>(i), work);
    std::make_heap(candidates.begin(), candidates.end(), later);
    while (!candidates.empty()) {
      std::pop_heap(candidates.begin(), candidates.end(), later);
      const MergeCandidate best = candidates.back();
      candidates.pop_back();
      Symbol& left = symbols[best.position];
      if (left.bytes == 0 || left.next < 0) continue;
      Symbol& right = symbols[static_cast<std::size_t>(left.next)];
      if (left.bytes + right.bytes != pieces_[static_cast<std::size_t>(best.id)].size) continue;  // out of date
      left.id = best.id;
      left.bytes += right.bytes;
      left.next = right.next;
      right.bytes = 0;
      if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = static_cast<std::int32_t>(best.position);
      const std::size_t before = candidates.size();
      propose(left.previous, work);
      propose(static_cast<std::int32_t>(best.position), work);
      for (std::size_t size = before + 1; size <= candidates.size(); ++size) {
        std::push_heap(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(size), later);
      }
    }
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
