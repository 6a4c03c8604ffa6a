#include "text/bpe.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "text/merge_heap.h"
#include "text/unicode.h"

namespace mmtune::text {

namespace {

class Bpe : public Model {
 public:
  Bpe(Vocabulary vocabulary, MergeTable merges, const BpeOptions& options, const std::string& where)
      : vocabulary_(std::move(vocabulary)), merges_(std::move(merges)), options_(options) {
    if (options_.unknown_token) {
      const auto id = vocabulary_.find(*options_.unknown_token);
      if (!id) {
        throw Error(
            {.what = "the unknown token '" + printable(*options_.unknown_token, 40) + "' is not in the vocabulary", .where = where});
      }
      unknown_ = *id;
    }
    for (const bool first : {false, true}) {
      for (const bool last : {false, true}) {
        for (char32_t code = 0; code < kTabled; ++code) letters_[place(first, last)][code] = find_letter(code, first, last);
      }
    }
    if (options_.byte_fallback) byte_ids_ = byte_ids(vocabulary_);
  }

  void tokenize(std::span<const Char> word, ModelBuffers& buffers, std::vector<Token>& out) const override {
    if (options_.ignore_merges) {
      buffers.bytes.clear();
      for (const Char& c : word) append_utf8(buffers.bytes, c.code);
      if (const auto id = vocabulary_.find(buffers.bytes)) {
        out.push_back({*id, {0, static_cast<std::uint32_t>(word.size())}});
        return;
      }
    }
    spell(word, buffers);
    merge_all(buffers);
    emit(word, buffers, out);
  }

  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  static constexpr char32_t kTabled = 512;  // all letters of byte-level text, and Latin ones

  static std::size_t place(bool first, bool last) { return (first ? 1u : 0u) + (last ? 2u : 0u); }

  std::int64_t find_letter(char32_t code, bool first, bool last) const {
    std::string token = first ? "" : options_.continuing_prefix;
    append_utf8(token, code);
    if (last) token += options_.end_of_word_suffix;
    return vocabulary_.find(token).value_or(-1);
  }

  std::int64_t letter(char32_t code, bool first, bool last) const {
    return code < kTabled ? letters_[place(first, last)][code] : find_letter(code, first, last);
  }

  static void add(std::int64_t id, std::uint32_t bytes, std::vector<Symbol>& symbols) {
    const auto at = static_cast<std::int32_t>(symbols.size());
    if (at > 0) symbols.back().next = at;
    symbols.push_back({id, at - 1, -1, bytes});
  }

  /// The symbols that the word begins as. As in the reference package, an unknown token stays back until the next known letter, behind the
  /// bytes that fallback gives meanwhile.
  void spell(std::span<const Char> word, ModelBuffers& buffers) const {
    auto& symbols = buffers.symbols;
    symbols.clear();
    buffers.starts.clear();
    std::uint32_t at = 0;
    std::uint32_t unknown = 0;  // bytes that the unknown token which stays back covers; 0: none does
    const auto flush = [&] {
      if (unknown > 0) add(unknown_, unknown, symbols);
      unknown = 0;
    };
    for (std::size_t i = 0; i < word.size(); ++i) {
      const char32_t code = word[i].code;
      const std::uint32_t bytes = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
      buffers.starts.push_back(at);
      at += bytes;
      if (const std::int64_t id = letter(code, i == 0, i + 1 == word.size()); id >= 0) {
        flush();
        add(id, bytes, symbols);
      } else if (!(options_.byte_fallback && fall_back(code, buffers)) && unknown_ >= 0) {
        if (!options_.fuse_unknown) flush();
        unknown += bytes;
      }
    }
    flush();
    buffers.starts.push_back(at);
  }

  bool fall_back(char32_t code, ModelBuffers& buffers) const {
    buffers.bytes.clear();
    append_utf8(buffers.bytes, code);
    const auto id_of = [this](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
    if (!std::all_of(buffers.bytes.begin(), buffers.bytes.end(), [&](char byte) { return id_of(byte) >= 0; })) return false;
    for (const char byte : buffers.bytes) add(id_of(byte), 1, buffers.symbols);
    return true;
  }

  void propose(std::uint32_t position, ModelBuffers& buffers) const {
    const Symbol& left = buffers.symbols[position];
    if (left.next < 0) return;
    const auto* merge = merges_.find(left.id, buffers.symbols[static_cast<std::size_t>(left.next)].id);
    if (merge != nullptr) buffers.candidates.push_back({merge->rank, position, merge->id});
  }

  void merge_all(ModelBuffers& buffers) const {
    merge_symbols(
        buffers, [&](std::uint32_t position) { propose(position, buffers); },
        [this](const Symbol& left, const Symbol& right, const MergeCandidate& candidate) {
          // A candidate is out of date when its neighbours have changed; as in the reference package it still holds where the new ones make
          // the same token.
          const auto* merge = merges_.find(left.id, right.id);
          return merge != nullptr && merge->id == candidate.id;
        });
  }

  /// Tokens cover the word's bytes one after another, also where letters were left out before them: the reference package counts so.
  static void emit(std::span<const Char> word, const ModelBuffers& buffers, std::vector<Token>& out) {
    const auto& starts = buffers.starts;
    std::uint32_t byte = 0;
    std::uint32_t at = 0;  // the code point that `byte` is of
    for (const Symbol& symbol : buffers.symbols) {
      if (symbol.bytes == 0) continue;
      const std::uint32_t begin = at;
      byte += symbol.bytes;
      while (at < word.size() && starts[at + 1] <= byte) ++at;
      const std::uint32_t end = starts[at] < byte ? at + 1 : at;
      out.push_back({symbol.id, {begin, end}});
    }
  }

  Vocabulary vocabulary_;
  MergeTable merges_;
  BpeOptions options_;
  std::int64_t unknown_ = -1;
  std::array<std::array<std::int64_t, kTabled>, 4> letters_{};
  std::vector<std::int64_t> byte_ids_;  ///< with byte fallback only
};

}  // namespace

std::unique_ptr<Model> make_bpe(Vocabulary vocabulary, const std::vector<MergeNames>& merges, const BpeOptions& options,
                                const std::string& where) {
  if (options.byte_fallback && !(options.continuing_prefix.empty() && options.end_of_word_suffix.empty())) {
    throw Error({.what = "byte_fallback together with continuing_subword_prefix or end_of_word_suffix is not supported", .where = where});
  }
  MergeTable table(merges, vocabulary, options.continuing_prefix.size(), where + ".merges");
  return std::make_unique<Bpe>(std::move(vocabulary), std::move(table), options, where);
}

std::unique_ptr<Model> read_bpe(JsonFields& fields) {
  BpeOptions options;
  if (const Json* dropout = fields.optional("dropout"); dropout != nullptr && *dropout != 0) fields.fail("dropout", "null or 0", *dropout);
  if (fields.optional("unk_token") != nullptr) options.unknown_token = fields.string("unk_token");
  if (fields.optional("continuing_subword_prefix") != nullptr) options.continuing_prefix = fields.string("continuing_subword_prefix");
  if (fields.optional("end_of_word_suffix") != nullptr) options.end_of_word_suffix = fields.string("end_of_word_suffix");
  options.fuse_unknown = fields.boolean_or("fuse_unk", false);
  options.byte_fallback = fields.boolean_or("byte_fallback", false);
  options.ignore_merges = fields.boolean_or("ignore_merges", false);
  Vocabulary vocabulary = read_vocabulary(fields.object("vocab"), fields.where() + ".vocab");
  const auto merges = read_merges(fields.any("merges"), fields.where() + ".merges");
  return make_bpe(std::move(vocabulary), merges, options, fields.where());
}

}  // namespace mmtune::text
