#include "text/unigram.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "text/byte_trie.h"
#include "text/unicode.h"

namespace mmtune::text {

namespace {

// What a character that no piece is for scores below the worst piece.
constexpr double kUnknownPenalty = 10.0;

class Unigram : public Model {
 public:
  Unigram(Vocabulary vocabulary, UnigramOptions options, std::string where)
      : vocabulary_(std::move(vocabulary)), options_(std::move(options)), where_(std::move(where)) {
    MMTUNE_ASSERT(options_.scores.size() == vocabulary_.size());
    const auto size = static_cast<std::int64_t>(vocabulary_.size());
    if (options_.unknown && (*options_.unknown < 0 || *options_.unknown >= size)) {
      throw Error({.what = "the unknown token is not in the vocabulary",
                   .where = where_,
                   .expected = "an id below " + std::to_string(size),
                   .got = std::to_string(*options_.unknown)});
    }
    std::vector<ByteTrie::Entry> entries;
    entries.reserve(vocabulary_.size());
    for (std::int64_t id = 0; id < size; ++id) {
      const auto token = vocabulary_.token_of(id);
      MMTUNE_ASSERT(token.has_value());
      const bool in_text = options_.in_text.empty() || options_.in_text[static_cast<std::size_t>(id)];
      if (in_text && !token->empty()) entries.push_back({*token, static_cast<std::int32_t>(id)});
    }
    trie_ = ByteTrie(std::move(entries));
    if (options_.byte_fallback) byte_ids_ = byte_ids(vocabulary_);
  }

  void tokenize(std::span<const Char> word, ModelBuffers& buffers, std::vector<Token>& out) const override {
    find_path(word, buffers);
    auto& path = buffers.path;
    // The pieces of the best path, from the back; `chosen` takes their ends.
    auto& chosen = buffers.starts;
    chosen.clear();
    for (std::size_t end = word.size(); end > 0; end = static_cast<std::size_t>(path[end].begin)) {
      chosen.push_back(static_cast<std::uint32_t>(end));
    }
    std::reverse(chosen.begin(), chosen.end());
    for (std::size_t i = 0; i < chosen.size();) {
      const PathNode& node = path[chosen[i]];
      Range range{static_cast<std::uint32_t>(node.begin), chosen[i]};
      const bool unknown = node.id == options_.unknown;
      ++i;
      if (!unknown) {
        out.push_back({node.id, range});
      } else if (options_.style == UnigramStyle::tokenizers) {
        for (; i < chosen.size() && path[chosen[i]].id == options_.unknown; ++i) range.end = chosen[i];
        emit_run(word, range, out);
      } else if (options_.byte_fallback) {
        emit_bytes(word, range, out);
      } else {
        for (; i < chosen.size() && path[chosen[i]].id == options_.unknown; ++i) range.end = chosen[i];
        out.push_back({node.id, range, true});
      }
    }
  }

  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  /// The best way to reach each position: path[0] to path[word.size()].
  void find_path(std::span<const Char> word, ModelBuffers& buffers) const {
    const bool single = options_.style == UnigramStyle::sentencepiece;
    auto& path = buffers.path;
    path.assign(word.size() + 1, {0.0, -1, -1});
    encode_word(word, buffers);
    const std::string_view bytes = buffers.bytes;
    const auto& starts = buffers.starts;
    const auto propose = [&](std::size_t begin, std::size_t end, double sum, std::int64_t id) {
      const double score = single ? static_cast<double>(static_cast<float>(sum)) : sum;
      PathNode& node = path[end];
      if (node.begin < 0 || score > node.score) node = {score, static_cast<std::int32_t>(begin), id};
    };
    for (std::size_t begin = 0; begin < word.size(); ++begin) {
      const double score = path[begin].score;
      bool alone = false;  // whether a piece is this very character
      std::uint32_t node = trie_.empty() ? ByteTrie::kNone : ByteTrie::kRoot;
      for (std::size_t end = begin; end < word.size() && node != ByteTrie::kNone; ++end) {
        for (std::uint32_t at = starts[end]; at < starts[end + 1] && node != ByteTrie::kNone; ++at) {
          node = trie_.child(node, static_cast<unsigned char>(bytes[at]));
        }
        const std::int32_t id = node == ByteTrie::kNone ? -1 : trie_.value(node);
        if (id < 0) continue;
        propose(begin, end + 1, options_.scores[static_cast<std::size_t>(id)] + score, id);
        alone = alone || end == begin;
      }
      if (alone) continue;
      if (!options_.unknown) {
        std::string shown;
        append_utf8(shown, word[begin].code);
        throw Error({.what = "the character '" + printable(shown) + "' has no token, and the model has no unknown token", .where = where_});
      }
      propose(begin, begin + 1, options_.unknown_score + score, *options_.unknown);
    }
  }

  static std::string spelled(std::span<const Char> word, Range range) {
    std::string text;
    for (std::uint32_t i = range.begin; i < range.end; ++i) append_utf8(text, word[i].code);
    return text;
  }

  /// Unknown characters in a row, as the `tokenizers` package makes tokens of them.
  void emit_run(std::span<const Char> word, Range range, std::vector<Token>& out) const {
    const std::string text = spelled(word, range);
    if (const auto id = vocabulary_.find(text)) {
      out.push_back({*id, range});
      return;
    }
    const auto id_of = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
    if (options_.byte_fallback && std::all_of(text.begin(), text.end(), [&](char byte) { return id_of(byte) >= 0; })) {
      for (const char byte : text) out.push_back({id_of(byte), range});
      return;
    }
    out.push_back({*options_.unknown, range, true});
  }

  void emit_bytes(std::span<const Char> word, Range range, std::vector<Token>& out) const {
    const std::string text = spelled(word, range);
    for (std::size_t i = 0; i < text.size(); ++i) {
      const Range covered = i + 1 == text.size() ? range : Range{range.begin, range.begin};
      out.push_back({byte_ids_[static_cast<unsigned char>(text[i])], covered});
    }
  }

  Vocabulary vocabulary_;
  UnigramOptions options_;
  std::string where_;
  ByteTrie trie_;
  std::vector<std::int64_t> byte_ids_;
};

}  // namespace

std::unique_ptr<Model> make_unigram(Vocabulary vocabulary, UnigramOptions options, std::string where) {
  return std::make_unique<Unigram>(std::move(vocabulary), std::move(options), std::move(where));
}

std::unique_ptr<Model> read_unigram(JsonFields& fields) {
  UnigramOptions options;
  if (fields.optional("unk_id") != nullptr) options.unknown = fields.integer("unk_id", 0, Vocabulary::kLargestId);
  options.byte_fallback = fields.boolean_or("byte_fallback", false);
  std::vector<Vocabulary::Entry> entries;
  double worst = std::numeric_limits<double>::infinity();
  for (const Json& piece : fields.array("vocab")) {
    const bool good = piece.is_array() && piece.size() == 2 && piece[0].is_string() && piece[1].is_number();
    if (!good || !std::isfinite(piece[1].get<double>())) fields.fail("vocab", "a list of [token, score]", piece);
    options.scores.push_back(piece[1].get<double>());
    worst = std::min(worst, options.scores.back());
    entries.push_back({piece[0].get<std::string>(), static_cast<std::int64_t>(entries.size())});
  }
  if (entries.empty()) fields.fail("vocab", "at least one token", fields.any("vocab"));
  options.unknown_score = worst - kUnknownPenalty;
  return make_unigram(Vocabulary(entries, fields.where() + ".vocab"), std::move(options), fields.where());
}

}  // namespace mmtune::text
