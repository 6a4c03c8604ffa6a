#pragma once
// Tokenizers read from tokenizer.json (HuggingFace `tokenizers` format) or from the files of older folders (WordPiece: vocab.txt;
// byte-level BPE: vocab.json and merges.txt), with byte-exact results.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mmtune::text {

/// What the `tokenizers` package calls an Encoding: equal lengths everywhere.
struct Encoding {
  std::vector<std::int64_t> ids;
  std::vector<std::int64_t> type_ids;
  std::vector<std::int64_t> attention_mask;
  std::vector<std::int64_t> special_tokens_mask;
  std::vector<std::string> tokens;                             ///< filled only when asked for
  std::vector<std::pair<std::int64_t, std::int64_t>> offsets;  ///< characters (code points) of the original text, [begin, end)
};

struct EncodeOptions {
  bool add_special_tokens = true;
  /// Longest result including special tokens; a longer one is truncated longest-first from the right, as transformers does with
  /// truncation=True. nullopt: what tokenizer.json says (its own truncation section, or none).
  std::optional<std::int64_t> max_length;
  bool with_tokens = false;
  bool with_offsets = true;
};

class Tokenizer {
 public:
  /// Reads tokenizer.json from a model folder; where there is none, tokenizer.model or spiece.model (SentencePiece), vocab.json and
  /// merges.txt, or vocab.txt, with the settings of tokenizer_config.json.
  /// Throws Error naming the file and the component: an unsupported component is refused by name.
  static std::unique_ptr<Tokenizer> open(const std::filesystem::path& folder);
  /// The content of a tokenizer.json (tests, fuzzing).
  static std::unique_ptr<Tokenizer> from_json(std::string_view json, const std::string& where);

  virtual ~Tokenizer() = default;

  /// Encodes one text, or a pair. Invalid UTF-8 is replaced by U+FFFD first (as Python's errors="replace").
  virtual Encoding encode(std::string_view text, const EncodeOptions& options = {}) const = 0;
  virtual Encoding encode_pair(std::string_view text, std::string_view pair, const EncodeOptions& options = {}) const = 0;

  /// The text of ids, as the `tokenizers` package decodes them: what the model never made of a text is no mistake, ids that the vocabulary
  /// lacks are left out. transformers' clean_up_tokenization_spaces is not part of it.
  virtual std::string decode(std::span<const std::int64_t> ids, bool skip_special_tokens = true) const = 0;

  virtual std::int64_t vocabulary_size() const = 0;  ///< added tokens included
  virtual std::optional<std::int64_t> id_of(std::string_view token) const = 0;
  virtual std::optional<std::string> token_of(std::int64_t id) const = 0;
  virtual std::int64_t padding_id() const = 0;
  virtual std::int64_t padding_type_id() const = 0;
  /// model_max_length of tokenizer_config.json; nullopt where it is absent or "very large".
  virtual std::optional<std::int64_t> model_max_length() const = 0;
};

/// Pads every encoding on the right to the longest (or to `length`) with the tokenizer's padding id, type id and mask 0.
void pad(std::span<Encoding> encodings, const Tokenizer& tokenizer, std::optional<std::int64_t> length = std::nullopt);

}  // namespace mmtune::text
