#include "text/tokenizer.h"

#include <algorithm>
#include <system_error>

#include "core/error.h"
#include "core/files.h"
#include "core/json.h"
#include "text/pipeline.h"

namespace mmtune::text {

namespace {

constexpr std::size_t kLargestText = std::size_t{256} << 20;

bool is_there(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

/// The configuration with what the special_tokens_map.json of older folders says. Newer ones list their tokens in added_tokens_decoder.
Json with_special_tokens_map(Json config, const std::filesystem::path& file) {
  if (!config.is_object() || config.contains("added_tokens_decoder") || !is_there(file)) return config;
  const Json map = read_json_file(file);
  if (!map.is_object()) throw Error({.what = "wrong type", .where = file.string(), .expected = "an object"});
  for (const auto& [key, value] : map.items()) config[key] = value;
  return config;
}

/// model_type of config.json, or nothing.
std::string model_type_of(const std::filesystem::path& file) {
  if (!is_there(file)) return "";
  const Json config = read_json_file(file);
  const bool named = config.is_object() && config.contains("model_type") && config["model_type"].is_string();
  return named ? config["model_type"].get<std::string>() : "";
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::open(const std::filesystem::path& folder) {
  const auto json_file = folder / "tokenizer.json";
  const auto vocab_file = folder / "vocab.txt";
  const auto config_file = folder / "tokenizer_config.json";
  const Json config = is_there(config_file) ? read_json_file(config_file) : Json::object();
  if (is_there(json_file)) {
    PipelineParts parts = read_tokenizer_json(read_json_file(json_file), json_file.string());
    apply_tokenizer_config(parts, TokenizerConfig(config, config_file.string()));
    return make_pipeline(std::move(parts));
  }
  const auto vocab_json_file = folder / "vocab.json";
  const auto merges_file = folder / "merges.txt";
  for (const char* name : {"tokenizer.model", "spiece.model"}) {
    const auto model_file = folder / name;
    if (!is_there(model_file)) continue;
    const std::string model = read_file(model_file, kLargestText);
    const auto added_file = folder / "added_tokens.json";
    const std::optional<Json> added = is_there(added_file) ? std::optional(read_json_file(added_file)) : std::nullopt;
    const Json settings = with_special_tokens_map(config, folder / "special_tokens_map.json");
    return make_pipeline(read_sentencepiece_folder({.model = model,
                                                    .model_where = model_file.string(),
                                                    .config = settings,
                                                    .config_where = config_file.string(),
                                                    .added = added ? &*added : nullptr,
                                                    .added_where = added_file.string(),
                                                    .model_type = model_type_of(folder / "config.json")}));
  }
  const bool is_bpe = is_there(vocab_json_file) && is_there(merges_file);
  if (!is_bpe && !is_there(vocab_file)) {
    throw Error({.what = "no tokenizer here",
                 .where = folder.string(),
                 .expected = "tokenizer.json, tokenizer.model, vocab.txt, or vocab.json and merges.txt"});
  }
  if (is_there(folder / "added_tokens.json")) {
    throw Error({.what = "added_tokens.json is not supported without tokenizer.json",
                 .where = folder.string(),
                 .hint = "save the tokenizer with transformers to get a tokenizer.json"});
  }
  if (is_bpe) {
    const Json vocabulary = read_json_file(vocab_json_file);
    const std::string merges = read_file(merges_file, kLargestText);
    const Json settings = with_special_tokens_map(config, folder / "special_tokens_map.json");
    return make_pipeline(read_vocab_json({.vocabulary = vocabulary,
                                          .vocabulary_where = vocab_json_file.string(),
                                          .merges = merges,
                                          .merges_where = merges_file.string(),
                                          .config = settings,
                                          .config_where = config_file.string(),
                                          .model_type = model_type_of(folder / "config.json")}));
  }
  return make_pipeline(read_vocab_txt(read_file(vocab_file, kLargestText), vocab_file.string(), config, config_file.string()));
}

std::unique_ptr<Tokenizer> Tokenizer::from_json(std::string_view json, const std::string& where) {
  return make_pipeline(read_tokenizer_json(parse_json(json, where), where));
}

void pad(std::span<Encoding> encodings, const Tokenizer& tokenizer, std::optional<std::int64_t> length) {
  std::size_t longest = 0;
  for (const Encoding& encoding : encodings) longest = std::max(longest, encoding.ids.size());
  const auto target = length ? static_cast<std::size_t>(std::max<std::int64_t>(*length, 0)) : longest;
  const std::string token = tokenizer.token_of(tokenizer.padding_id()).value_or("");
  for (Encoding& encoding : encodings) {
    const std::size_t size = std::max(target, encoding.ids.size());
    // Offsets and tokens stay empty where they were not asked for.
    const bool with_offsets = encoding.offsets.size() == encoding.ids.size();
    const bool with_tokens = !encoding.tokens.empty();
    encoding.ids.resize(size, tokenizer.padding_id());
    encoding.type_ids.resize(size, tokenizer.padding_type_id());
    encoding.attention_mask.resize(size, 0);
    encoding.special_tokens_mask.resize(size, 1);
    if (with_offsets) encoding.offsets.resize(size, {0, 0});
    if (with_tokens) encoding.tokens.resize(size, token);
  }
}

}  // namespace mmtune::text
