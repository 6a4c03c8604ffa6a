// Folders with SentencePiece's model file and no tokenizer.json, put together for the class of the tokenizer.
#include <algorithm>

#include "core/error.h"
#include "text/json_fields.h"
#include "text/pipeline.h"
#include "text/sentencepiece.h"
#include "text/special_tokens.h"

namespace mmtune::text {

namespace {

enum class Family { llama, t5, plain };

Family family_of(const TokenizerConfig& config, const std::string& model_type) {
  const auto name = config.class_name();
  if (name ? *name == "LlamaTokenizer" : model_type == "llama") return Family::llama;
  if (name ? *name == "T5Tokenizer" : model_type == "t5") return Family::t5;
  if (!name && model_type.empty()) return Family::plain;
  throw Error({.what = "a SentencePiece model of an unknown tokenizer",
               .where = config.where() + ": tokenizer_class",
               .expected = "LlamaTokenizer or T5Tokenizer",
               .got = name ? printable(*name, 60) : "nothing, and model_type \"" + printable(model_type, 60) + "\"",
               .hint = "save the tokenizer with transformers to get a tokenizer.json"});
}

std::vector<SpecialTokenDefault> special_tokens(Family family) {
  switch (family) {
    case Family::llama:
      return {{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"unk_token", "<unk>"}, {"pad_token", nullptr}};
    case Family::t5:
      return {{"eos_token", "</s>"}, {"unk_token", "<unk>"}, {"pad_token", "<pad>"}};
    case Family::plain:
      return {};
  }
  return {};
}

/// added_tokens.json, {"token": id, …}, by ascending id.
std::vector<AddedToken> listed_tokens(const Json& json, const std::string& where) {
  std::vector<AddedToken> tokens;
  [[maybe_unused]] const JsonFields an_object(json, where);
  for (const auto& [content, id] : json.items()) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > static_cast<std::uint64_t>(Vocabulary::kLargestId)) {
      throw Error({.what = "wrong id of token '" + printable(content, 40) + "'", .where = where, .expected = "an id", .got = shown(id)});
    }
    tokens.push_back({.content = content, .id = id.get<std::int64_t>()});
  }
  std::sort(tokens.begin(), tokens.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  return tokens;
}

}  // namespace

PipelineParts read_sentencepiece_folder(const SentencePieceFolder& files) {
  const TokenizerConfig config(files.config, files.config_where);
  const Family family = family_of(config, files.model_type);
  const SentencePieceFile file = read_sentencepiece_file(files.model, files.model_where);

  PipelineParts parts;
  // As in transformers 5: a text's parts behind special tokens get no space of their own unless the folder says `legacy`.
  const bool every_part = family != Family::llama || config.boolean("legacy", false);
  parts.normalizer = make_sentencepiece_normalizer(file, every_part ? DummyPrefix::every_part : DummyPrefix::beginning, files.model_where);
  parts.model = make_sentencepiece_model(file, files.model_where);
  parts.decoder = make_sentencepiece_decoder(file, family != Family::plain);
  const Vocabulary& vocabulary = parts.model->vocabulary();

  std::vector<AddedToken> added = config.added_tokens();
  if (added.empty() && files.added != nullptr) added = listed_tokens(*files.added, files.added_where);
  if (family == Family::t5 && added.empty()) {
    // The sentinels stand behind the pieces in descending order.
    std::int64_t next = static_cast<std::int64_t>(vocabulary.size());
    for (std::int64_t i = config.integer("extra_ids", 100, 0, 1 << 20); i-- > 0;) {
      const std::string content = "<extra_id_" + std::to_string(i) + ">";
      const auto id = vocabulary.find(content);
      added.push_back({.content = content, .id = id ? *id : next++, .special = true});
    }
  }
  SpecialTokens named(special_tokens(family), config, vocabulary, std::move(added));
  if (family == Family::llama) {
    const bool begins = config.boolean("add_bos_token", true), ends = config.boolean("add_eos_token", false);
    parts.post_processor = framing_post_processor(begins ? &named.named("bos_token") : nullptr, ends ? &named.named("eos_token") : nullptr);
  } else {
    parts.post_processor = family == Family::t5 ? ending_post_processor(named.named("eos_token")) : plain_post_processor();
  }
  if (named.has("pad_token")) parts.padding_id = named.named("pad_token").id;
  added = named.take();
  // They are looked for in the text as it is: the normalizer would put a space in front of them.
  for (AddedToken& token : added) token.normalized = false;
  parts.added_tokens = AddedTokens(std::move(added), vocabulary, nullptr, files.config_where);
  apply_tokenizer_config(parts, config);
  return parts;
}

}  // namespace mmtune::text
