#include "text/wordpiece.h"

#include <algorithm>

#include "core/error.h"
#include "text/unicode.h"

namespace mmtune::text {

namespace {

class WordPiece : public Model {
 public:
  WordPiece(Vocabulary vocabulary, const WordPieceOptions& options, std::int64_t unknown)
      : vocabulary_(std::move(vocabulary)),
        prefix_(options.continuing_prefix),
        prefix_hash_(hash_bytes(prefix_)),
        longest_word_(static_cast<std::size_t>(options.longest_word)),
        unknown_(unknown) {}

  void tokenize(std::span<const Char> word, ModelBuffers& buffers, std::vector<Token>& out) const override {
    const Range whole{0, static_cast<std::uint32_t>(word.size())};
    if (word.size() > longest_word_) {
      out.push_back({unknown_, whole});
      return;
    }
    encode_word(word, buffers);
    const std::size_t before = out.size();
    for (std::uint32_t begin = 0; begin < word.size();) {
      const auto [id, end] = longest_match(begin, whole.end, buffers);
      if (id < 0) {
        out.resize(before);
        out.push_back({unknown_, whole});
        return;
      }
      out.push_back({id, {begin, end}});
      begin = end;
    }
  }

  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  struct Match {
    std::int64_t id;
    std::uint32_t end;
  };

  // The longest token that begins at `begin`: hashes of all prefixes in one pass, then lookups from the longest to the shortest.
  Match longest_match(std::uint32_t begin, std::uint32_t end, ModelBuffers& buffers) const {
    const std::string_view prefix = begin == 0 ? std::string_view() : std::string_view(prefix_);
    const std::string_view bytes = buffers.bytes;
    const auto& starts = buffers.starts;
    buffers.hashes.clear();
    std::uint64_t hash = begin == 0 ? kHashSeed : prefix_hash_;
    for (std::uint32_t i = begin; i < end && starts[i + 1] - starts[begin] + prefix.size() <= vocabulary_.longest_token(); ++i) {
      for (std::uint32_t b = starts[i]; b < starts[i + 1]; ++b) hash = extend_hash(hash, static_cast<unsigned char>(bytes[b]));
      buffers.hashes.push_back(hash);
    }
    for (auto length = static_cast<std::uint32_t>(buffers.hashes.size()); length > 0; --length) {
      const std::string_view rest = bytes.substr(starts[begin], starts[begin + length] - starts[begin]);
      if (const std::int64_t id = vocabulary_.find(buffers.hashes[length - 1], prefix, rest); id >= 0) return {id, begin + length};
    }
    return {-1, begin};
  }

  Vocabulary vocabulary_;
  std::string prefix_;
  std::uint64_t prefix_hash_;
  std::size_t longest_word_;
  std::int64_t unknown_;
};

}  // namespace

std::unique_ptr<Model> make_wordpiece(Vocabulary vocabulary, const WordPieceOptions& options, const std::string& where) {
  const auto unknown = vocabulary.find(options.unknown_token);
  if (!unknown) {
    throw Error({.what = "the unknown token '" + printable(options.unknown_token, 40) + "' is not in the vocabulary", .where = where});
  }
  return std::make_unique<WordPiece>(std::move(vocabulary), options, *unknown);
}

std::unique_ptr<Model> read_wordpiece(JsonFields& fields) {
  WordPieceOptions options;
  options.unknown_token = fields.string("unk_token");
  options.continuing_prefix = fields.string("continuing_subword_prefix");
  options.longest_word = fields.integer("max_input_chars_per_word", 0, 0x7FFFFFFF);
  return make_wordpiece(read_vocabulary(fields.object("vocab"), fields.where() + ".vocab"), options, fields.where());
}

}  // namespace mmtune::text
