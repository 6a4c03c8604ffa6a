#pragma once
// A tokenizer put together from its parts, whichever file they came from.

#include <memory>
#include <optional>
#include <string>

#include "text/added_tokens.h"
#include "text/decoder.h"
#include "text/model.h"
#include "text/normalizer.h"
#include "text/post_processor.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"
#include "text/tokenizer_config.h"
#include "text/truncation.h"

namespace mmtune::text {

struct PipelineParts {
  std::unique_ptr<Normalizer> normalizer;       ///< may be null
  std::unique_ptr<PreTokenizer> pre_tokenizer;  ///< may be null: a text is one word
  std::unique_ptr<Model> model;
  AddedTokens added_tokens;
  PostProcessor post_processor;
  std::unique_ptr<Decoder> decoder;  ///< may be null: tokens with a space between them
  std::optional<Truncation> truncation;
  std::optional<std::int64_t> padding_id;  ///< nullopt: the id of [PAD], <pad> or <|endoftext|>, or 0 without one
  std::int64_t padding_type_id = 0;
  std::optional<std::int64_t> model_max_length;
};

std::unique_ptr<Tokenizer> make_pipeline(PipelineParts parts);

/// Reads the sections of a tokenizer.json. Throws Error naming `where`, section and component.
PipelineParts read_tokenizer_json(const Json& json, const std::string& where);

/// The tokenizer of a BERT-type folder without tokenizer.json: `vocabulary` is the content of vocab.txt, `config` that of
/// tokenizer_config.json (or an empty object).
PipelineParts read_vocab_txt(const std::string& vocabulary, const std::string& where, const Json& config, const std::string& config_where);

/// What a BPE folder without tokenizer.json holds.
struct VocabJsonFiles {
  const Json& vocabulary;  ///< vocab.json
  std::string vocabulary_where;
  const std::string& merges;  ///< content of merges.txt
  std::string merges_where;
  const Json& config;  ///< tokenizer_config.json (or an empty object)
  std::string config_where;
  std::string model_type;  ///< of config.json, for a folder that does not name its tokenizer; may be empty
};

/// The tokenizer of such a folder: RobertaTokenizer, GPT2Tokenizer or CLIPTokenizer. Throws Error naming file and place.
PipelineParts read_vocab_json(const VocabJsonFiles& files);

/// What a SentencePiece folder without tokenizer.json holds.
struct SentencePieceFolder {
  const std::string& model;  ///< content of tokenizer.model or spiece.model
  std::string model_where;
  const Json& config;  ///< tokenizer_config.json (or an empty object)
  std::string config_where;
  const Json* added;  ///< added_tokens.json, or nullptr
  std::string added_where;
  std::string model_type;  ///< of config.json, for a folder that does not name its tokenizer; may be empty
};

/// The tokenizer of such a folder: LlamaTokenizer, T5Tokenizer, or, where nothing says, the pieces and nothing around them. Throws Error
/// naming file and place.
PipelineParts read_sentencepiece_folder(const SentencePieceFolder& files);

/// What tokenizer_config.json says beside a tokenizer.json: model_max_length, pad_token.
void apply_tokenizer_config(PipelineParts& parts, const TokenizerConfig& config);

}  // namespace mmtune::text
