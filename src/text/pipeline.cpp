#include "text/pipeline.h"

#include <algorithm>

#include "core/error.h"
#include "text/byte_level.h"
#include "text/unicode.h"

namespace mmtune::text {

namespace {

/// The tokens of one sequence before special tokens are put around it.
struct SequenceTokens {
  std::vector<std::int64_t> ids;
  std::vector<std::pair<std::int64_t, std::int64_t>> offsets;
  std::vector<std::string> tokens;
  std::vector<SpacesAround> spaces;  ///< of each token, where offsets are trimmed
};

/// What encoding one text needs, kept from its pieces to the next.
struct Buffers {
  std::vector<Char> original;
  std::vector<Segment> in_original;
  std::vector<Segment> in_normalized;
  PreTokenized pre_tokenized;
  std::vector<Token> tokens;
  AlignedText text;
  ModelBuffers model;
};

class Pipeline final : public Tokenizer {
 public:
  explicit Pipeline(PipelineParts parts) : parts_(std::move(parts)) {
    MMTUNE_ASSERT(parts_.model != nullptr);
    size_ = static_cast<std::int64_t>(vocabulary().size());
    for (const AddedToken& token : parts_.added_tokens.tokens()) size_ += vocabulary().find(token.content) ? 0 : 1;
    for (const char* token : {"<|endoftext|>", "<pad>", "[PAD]"}) padding_id_ = id_of(token).value_or(padding_id_);
    padding_id_ = parts_.padding_id.value_or(padding_id_);
  }

  Encoding encode(std::string_view text, const EncodeOptions& options) const override {
    Buffers buffers;
    return finish(tokenize(text, options, buffers), std::nullopt, options);
  }

  Encoding encode_pair(std::string_view text, std::string_view pair, const EncodeOptions& options) const override {
    Buffers buffers;
    SequenceTokens first = tokenize(text, options, buffers);
    return finish(std::move(first), tokenize(pair, options, buffers), options);
  }

  std::string decode(std::span<const std::int64_t> ids, bool skip_special_tokens) const override {
    std::vector<std::string> tokens;
    for (const std::int64_t id : ids) {
      auto token = token_of(id);
      if (token && !(skip_special_tokens && parts_.added_tokens.is_special(*token))) tokens.push_back(std::move(*token));
    }
    if (parts_.decoder) parts_.decoder->apply(tokens);
    std::string text;
    for (const std::string& token : tokens) {
      if (!parts_.decoder && &token != tokens.data()) text += ' ';
      text += token;
    }
    return text;
  }

  std::int64_t vocabulary_size() const override { return size_; }

  std::optional<std::int64_t> id_of(std::string_view token) const override {
    const auto added = parts_.added_tokens.find(token);
    return added ? added : vocabulary().find(token);
  }

  std::optional<std::string> token_of(std::int64_t id) const override {
    if (const AddedToken* added = parts_.added_tokens.token_of(id)) return added->content;
    const auto token = vocabulary().token_of(id);
    return token ? std::optional(std::string(*token)) : std::nullopt;
  }

  std::int64_t padding_id() const override { return padding_id_; }
  std::int64_t padding_type_id() const override { return parts_.padding_type_id; }
  std::optional<std::int64_t> model_max_length() const override { return parts_.model_max_length; }

 private:
  const Vocabulary& vocabulary() const { return parts_.model->vocabulary(); }

  SequenceTokens tokenize(std::string_view utf8, const EncodeOptions& options, Buffers& buffers) const {
    SequenceTokens out;
    text::decode(utf8, buffers.original);
    out.ids.reserve(utf8.size() / 4 + 4);
    if (options.with_offsets) out.offsets.reserve(utf8.size() / 4 + 4);
    buffers.in_original.clear();
    parts_.added_tokens.in_original().split(buffers.original, buffers.in_original);
    for (const Segment& segment : buffers.in_original) {
      const auto chars = std::span<const Char>(buffers.original).subspan(segment.range.begin, segment.range.end - segment.range.begin);
      buffers.text.assign(chars);
      if (segment.token != nullptr) {
        add(*segment.token, {0, static_cast<std::uint32_t>(chars.size())}, options, buffers, out);
        continue;
      }
      if (parts_.normalizer) parts_.normalizer->normalize(buffers.text);
      buffers.in_normalized.clear();
      parts_.added_tokens.in_normalized().split(buffers.text.chars(), buffers.in_normalized);
      for (const Segment& piece : buffers.in_normalized) {
        if (piece.token != nullptr) {
          add(*piece.token, piece.range, options, buffers, out);
        } else {
          tokenize_piece(piece.range, options, buffers, out);
        }
      }
    }
    return out;
  }

  // An added token's text is what it took out of the text, stripped white space included.
  void add(const AddedToken& token, Range range, const EncodeOptions& options, const Buffers& buffers, SequenceTokens& out) const {
    const auto chars = buffers.text.chars();
    out.ids.push_back(token.id);
    if (options.with_offsets) out.offsets.emplace_back(chars[range.begin].begin, chars[range.end - 1].end);
    if (!options.with_tokens && !trims(options)) return;
    std::string text;
    buffers.text.append_utf8(text, range);
    if (trims(options)) out.spaces.push_back(spaces_around(text));
    if (options.with_tokens) out.tokens.push_back(std::move(text));
  }

  void tokenize_piece(Range piece, const EncodeOptions& options, Buffers& buffers, SequenceTokens& out) const {
    buffers.pre_tokenized.assign(buffers.text.chars().subspan(piece.begin, piece.end - piece.begin));
    if (parts_.pre_tokenizer) parts_.pre_tokenizer->apply(buffers.pre_tokenized);
    for (const Range& range : buffers.pre_tokenized.words()) {
      const auto word = buffers.pre_tokenized.chars().subspan(range.begin, range.end - range.begin);
      buffers.tokens.clear();
      parts_.model->tokenize(word, buffers.model, buffers.tokens);
      for (const Token& token : buffers.tokens) {
        out.ids.push_back(token.id);
        if (options.with_offsets) out.offsets.push_back(place(word, token.range));
        if (trims(options)) out.spaces.push_back(spaces_around(vocabulary().token_of(token.id).value_or("")));
        if (options.with_tokens) out.tokens.push_back(name(word, token));
      }
    }
  }

  static std::pair<std::int64_t, std::int64_t> place(std::span<const Char> word, Range range) {
    if (range.begin == range.end) return {word[range.begin].begin, word[range.begin].begin};
    return {word[range.begin].begin, word[range.end - 1].end};
  }

  std::string name(std::span<const Char> word, const Token& token) const {
    if (!token.spelled) return std::string(vocabulary().token_of(token.id).value_or(""));
    std::string text;
    for (std::uint32_t i = token.range.begin; i < token.range.end; ++i) append_utf8(text, word[i].code);
    return text;
  }

  bool trims(const EncodeOptions& options) const { return options.with_offsets && parts_.post_processor.trim != OffsetTrim::none; }

  // A space that the pre-tokenizer has added stands for no character: a first token with one space keeps its begin (more are the text's
  // own). The reference package takes every token that begins at 0 for a first one.
  void trim_offsets(SequenceTokens& tokens, Range kept) const {
    for (std::uint32_t i = kept.begin; i < kept.end; ++i) {
      auto& [begin, end] = tokens.offsets[i];
      std::int64_t leading = tokens.spaces[i].leading;
      const std::int64_t trailing = tokens.spaces[i].trailing;
      const bool is_first = i == kept.begin || begin == 0;
      if (is_first && leading == 1 && parts_.post_processor.trim == OffsetTrim::but_the_added) leading = 0;
      begin = std::min(begin + leading, end);
      if (end >= trailing) end = std::max(end - trailing, begin);
    }
  }

  Encoding finish(SequenceTokens first, std::optional<SequenceTokens> second, const EncodeOptions& options) const {
    std::optional<Truncation> truncation = parts_.truncation;
    if (options.max_length) truncation = Truncation{.max_length = *options.max_length};
    const auto& pieces = second ? parts_.post_processor.pair : parts_.post_processor.single;
    const std::int64_t added = options.add_special_tokens ? parts_.post_processor.added(second.has_value()) : 0;
    Kept kept{{0, static_cast<std::uint32_t>(first.ids.size())}, {0, static_cast<std::uint32_t>(second ? second->ids.size() : 0)}};
    if (truncation) {
      const auto second_size = second ? std::optional(static_cast<std::int64_t>(second->ids.size())) : std::nullopt;
      kept = truncate(*truncation, added, static_cast<std::int64_t>(first.ids.size()), second_size);
    }

    Encoding out;
    const std::size_t size = kept.first.end - kept.first.begin + (kept.second.end - kept.second.begin) + static_cast<std::size_t>(added);
    out.ids.reserve(size);
    out.type_ids.reserve(size);
    out.special_tokens_mask.reserve(size);
    if (options.with_offsets) out.offsets.reserve(size);
    if (trims(options)) {
      trim_offsets(first, kept.first);
      if (second) trim_offsets(*second, kept.second);
    }
    for (const TemplatePiece& piece : pieces) {
      if (piece.sequence >= 0) {
        append(piece.sequence == 0 ? first : *second, piece.sequence == 0 ? kept.first : kept.second, piece.type_id, out);
      } else if (options.add_special_tokens) {
        append_special(piece, options, out);
      }
    }
    out.attention_mask.assign(out.ids.size(), 1);
    return out;
  }

  static void append(const SequenceTokens& from, Range kept, std::int64_t type_id, Encoding& out) {
    const auto copy = [&](const auto& source, auto& target) {
      if (!source.empty()) target.insert(target.end(), source.begin() + kept.begin, source.begin() + kept.end);
    };
    copy(from.ids, out.ids);
    copy(from.offsets, out.offsets);
    copy(from.tokens, out.tokens);
    out.type_ids.resize(out.ids.size(), type_id);
    out.special_tokens_mask.resize(out.ids.size(), 0);
  }

  static void append_special(const TemplatePiece& piece, const EncodeOptions& options, Encoding& out) {
    out.ids.insert(out.ids.end(), piece.ids.begin(), piece.ids.end());
    if (options.with_offsets) out.offsets.resize(out.ids.size(), {0, 0});
    if (options.with_tokens) out.tokens.insert(out.tokens.end(), piece.tokens.begin(), piece.tokens.end());
    out.type_ids.resize(out.ids.size(), piece.type_id);
    out.special_tokens_mask.resize(out.ids.size(), 1);
  }

  PipelineParts parts_;
  std::int64_t size_ = 0;
  std::int64_t padding_id_ = 0;
};

}  // namespace

std::unique_ptr<Tokenizer> make_pipeline(PipelineParts parts) {
  return std::make_unique<Pipeline>(std::move(parts));
}

}  // namespace mmtune::text
