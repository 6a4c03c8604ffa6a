#include "text/sentencepiece.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <unordered_map>

#include "core/error.h"
#include "text/byte_trie.h"
#include "text/charsmap.h"
#include "text/sentencepiece_bpe.h"
#include "text/unicode.h"
#include "text/unigram.h"

namespace mmtune::text {

namespace {

constexpr char32_t kSpaceSymbol = U'\u2581';
constexpr std::string_view kSpaceBytes = "\xE2\x96\x81";

class SentencePieceNormalizer : public Normalizer {
 public:
  SentencePieceNormalizer(const SentencePieceFile& file, DummyPrefix prefix, const std::string& where)
      : symbols_(user_defined_symbols(file)),
        prefix_(prefix),
        adds_(file.add_dummy_prefix),
        removes_(file.remove_extra_whitespaces),
        space_(file.escape_whitespaces ? kSpaceSymbol : U' ') {
    if (!file.charsmap.empty()) table_.emplace(file.charsmap, where + ": precompiled_charsmap");
  }

  void normalize(AlignedText& text) const override {
    const auto chars = text.chars();
    if (chars.empty()) return;
    Source source(*this, chars);
    std::vector<Char> out;
    out.reserve(chars.size() + 1);
    std::uint32_t at = 0;
    while (removes_ && at < chars.size()) {
      const Prefix next = source.prefix(at);
      if (next.text != " ") break;
      at += next.chars;
    }
    std::uint32_t end = chars.back().end;
    const bool begins = prefix_ == DummyPrefix::every_part || chars.front().begin == 0;
    if (at < chars.size() && adds_ && begins) out.push_back({space_, chars[at].begin, 0});
    bool after_space = removes_;
    while (at < chars.size()) {
      const Prefix next = source.prefix(at);
      std::string_view rest = next.text;
      while (after_space && rest.starts_with(' ')) rest.remove_prefix(1);
      for (std::size_t i = 0; i < rest.size();) {
        const char32_t code = next_code_point(rest, i);
        out.push_back({code == U' ' ? space_ : code, chars[at].begin, 0});
      }
      if (!rest.empty()) after_space = rest.ends_with(' ');
      after_space = after_space && removes_;
      at += next.chars;
    }
    while (removes_ && !out.empty() && out.back().code == space_) {
      end = out.back().begin;
      out.pop_back();
    }
    for (std::size_t i = 0; i < out.size(); ++i) out[i].end = i + 1 < out.size() ? out[i + 1].begin : end;
    text.exchange(out);
  }

 private:
  struct Prefix {
    std::string_view text;  ///< what stands in the place of
    std::uint32_t chars;    ///< so many code points
  };

  /// The text in UTF-8, and what becomes of its beginning at a position.
  class Source {
   public:
    Source(const SentencePieceNormalizer& owner, std::span<const Char> chars) : owner_(owner) {
      bytes_.reserve(chars.size() + chars.size() / 2);
      starts_.reserve(chars.size() + 1);
      for (const Char& c : chars) {
        starts_.push_back(static_cast<std::uint32_t>(bytes_.size()));
        append_utf8(bytes_, c.code);
      }
      starts_.push_back(static_cast<std::uint32_t>(bytes_.size()));
    }

    Prefix prefix(std::uint32_t at) const {
      const std::string_view rest = std::string_view(bytes_).substr(starts_[at]);
      if (const std::size_t length = owner_.symbols_.empty() ? 0 : owner_.symbols_.longest(rest))
        return {rest.substr(0, length), count(at, length)};
      if (owner_.table_) {
        if (const auto found = owner_.table_->longest(rest)) return {found->text, count(at, found->length)};
      }
      return {rest.substr(0, starts_[at + 1] - starts_[at]), 1};
    }

   private:
    std::uint32_t count(std::uint32_t at, std::size_t length) const {
      const std::size_t end = starts_[at] + length;
      std::uint32_t chars = 1;
      while (starts_[at + chars] < end) ++chars;
      return chars;
    }

    const SentencePieceNormalizer& owner_;
    std::string bytes_;
    std::vector<std::uint32_t> starts_;
  };

  ByteTrie symbols_;
  std::optional<Charsmap> table_;
  DummyPrefix prefix_;
  bool adds_;
  bool removes_;
  char32_t space_;
};

/// Bytes as UTF-8, U+FFFD for each byte that is no part of it (SentencePiece takes them one by one).
std::string one_by_one(std::string_view bytes) {
  std::string text;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t before = at;
    const char32_t code = next_code_point(bytes, at);
    append_utf8(text, code);
    if (code == 0xFFFD && bytes.substr(before, at - before) != "\xEF\xBF\xBD") at = before + 1;
  }
  return text;
}

class SentencePieceDecoder : public Decoder {
 public:
  SentencePieceDecoder(const SentencePieceFile& file, bool special_as_written)
      : strips_(file.add_dummy_prefix || file.remove_extra_whitespaces) {
    strips_all_ = file.remove_extra_whitespaces;
    int byte = 0;
    for (const Piece& piece : file.pieces) {
      if (piece.type != PieceType::control && piece.type != PieceType::unknown) continue;
      const std::string surface = piece.type == PieceType::unknown ? file.unknown_surface : "";
      special_.emplace(piece.text, Special{special_as_written ? piece.text : surface, -1});
    }
    constexpr std::string_view kDigits = "0123456789ABCDEF";
    for (; byte < 256 && file.byte_fallback; ++byte) {
      const std::string token = {'<', '0', 'x', kDigits[static_cast<std::size_t>(byte) >> 4], kDigits[byte & 15], '>'};
      special_.emplace(token, Special{"", byte});
    }
  }

  void apply(std::vector<std::string>& tokens) const override {
    std::string text, bytes;
    bool beginning = true, lost_space = false;
    for (const std::string& token : tokens) {
      const auto special = special_.find(token);
      if (special != special_.end() && special->second.byte >= 0) {
        bytes += static_cast<char>(special->second.byte);
        continue;
      }
      text += one_by_one(bytes);
      bytes.clear();
      if (lost_space || !text.empty()) beginning = false;
      lost_space = false;
      if (special != special_.end()) {
        text += special->second.surface;
        continue;
      }
      std::string_view rest = token;
      if (beginning && strips_ && rest.starts_with(kSpaceBytes)) {
        rest.remove_prefix(kSpaceBytes.size());
        lost_space = !strips_all_;
      }
      for (std::size_t at = 0; at < rest.size();) {
        const bool space = rest.substr(at).starts_with(kSpaceBytes);
        text += space ? ' ' : rest[at];
        at += space ? kSpaceBytes.size() : 1;
      }
    }
    text += one_by_one(bytes);
    tokens.resize(1);
    tokens.front() = std::move(text);
  }

 private:
  struct Special {
    std::string surface;
    int byte;  ///< −1: none
  };
  std::unordered_map<std::string, Special> special_;
  bool strips_;
  bool strips_all_ = false;
};

std::unique_ptr<Model> make_unigram_model(const SentencePieceFile& file, Vocabulary vocabulary, std::int64_t unknown,
                                          const std::string& where) {
  constexpr float kUnknownPenalty = 10.0F;
  float least = std::numeric_limits<float>::max(), most = std::numeric_limits<float>::min();
  for (const Piece& piece : file.pieces) {
    if (piece.type != PieceType::normal) continue;
    least = std::min(least, piece.score);
    most = std::max(most, piece.score);
  }
  UnigramOptions options;
  options.style = UnigramStyle::sentencepiece;
  for (const Piece& piece : file.pieces) {
    const bool user_defined = piece.type == PieceType::user_defined;
    // A bonus by its length lets a user-defined symbol win over all pieces that it could be made of.
    const float bonus = static_cast<float>(piece.text.size()) * most;
    options.scores.push_back(static_cast<double>(user_defined ? bonus - 0.1F : piece.score));
    options.in_text.push_back(user_defined || piece.type == PieceType::normal);
  }
  options.unknown = unknown;
  options.unknown_score = static_cast<double>(least - kUnknownPenalty);
  options.byte_fallback = file.byte_fallback;
  return make_unigram(std::move(vocabulary), std::move(options), where);
}

}  // namespace

ByteTrie user_defined_symbols(const SentencePieceFile& file) {
  std::vector<ByteTrie::Entry> entries;
  for (const Piece& piece : file.pieces) {
    if (piece.type == PieceType::user_defined) entries.push_back({piece.text, 0});
  }
  return ByteTrie(std::move(entries));
}

std::unique_ptr<Normalizer> make_sentencepiece_normalizer(const SentencePieceFile& file, DummyPrefix prefix, const std::string& where) {
  return std::make_unique<SentencePieceNormalizer>(file, prefix, where);
}

std::unique_ptr<Model> make_sentencepiece_model(const SentencePieceFile& file, const std::string& where) {
  std::vector<Vocabulary::Entry> entries;
  std::int64_t unknown = -1;
  for (const Piece& piece : file.pieces) {
    if (piece.type == PieceType::unknown) unknown = static_cast<std::int64_t>(entries.size());
    entries.push_back({piece.text, static_cast<std::int64_t>(entries.size())});
  }
  MMTUNE_ASSERT(unknown >= 0);
  Vocabulary vocabulary(entries, where);
  if (file.byte_fallback) {
    const auto ids = byte_ids(vocabulary);
    for (const std::int64_t id : ids) {
      if (id < 0 || file.pieces[static_cast<std::size_t>(id)].type != PieceType::byte) {
        throw Error({.what = "the byte pieces are not <0x00> to <0xFF>", .where = where});
      }
    }
  }
  if (file.kind == SentencePieceKind::bpe) return make_sentencepiece_bpe(file, std::move(vocabulary), unknown);
  return make_unigram_model(file, std::move(vocabulary), unknown, where);
}

std::unique_ptr<Decoder> make_sentencepiece_decoder(const SentencePieceFile& file, bool special_as_written) {
  return std::make_unique<SentencePieceDecoder>(file, special_as_written);
}

}  // namespace mmtune::text
