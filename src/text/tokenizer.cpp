#include "text/tokenizer.h"

#include <algorithm>
#include <system_error>

#include "core/error.h"
#include "core/files.h"
#include "core/json.h"
#include "text/pipeline.h"

namespace mmtune::text {

namespace {

constexpr std::size_t kLargestVocabTxt = std::size_t{256} << 20;

bool is_there(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::open(const std::filesystem::path& folder) {
  const auto json_file = folder / "tokenizer.json";
  const auto vocab_file = folder / "vocab.txt";
  const auto config_file = folder / "tokenizer_config.json";
  const Json config = is_there(config_file) ? read_json_file(config_file) : Json::object();
  if (is_there(json_file)) {
    PipelineParts parts = read_tokenizer_json(read_json_file(json_file), json_file.string());
    apply_tokenizer_config(parts, config, config_file.string());
    return make_pipeline(std::move(parts));
  }
  if (!is_there(vocab_file)) {
    throw Error({.what = "no tokenizer here", .where = folder.string(), .expected = "tokenizer.json or vocab.txt"});
  }
  if (is_there(folder / "added_tokens.json")) {
    throw Error({.what = "added_tokens.json beside vocab.txt is not supported",
                 .where = folder.string(),
                 .hint = "save the tokenizer with transformers to get a tokenizer.json"});
  }
  return make_pipeline(read_vocab_txt(read_file(vocab_file, kLargestVocabTxt), vocab_file.string(), config, config_file.string()));
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
