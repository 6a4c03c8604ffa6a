#include "text/tokenizer_config.h"

#include <algorithm>

#include "core/error.h"
#include "text/json_fields.h"
#include "text/pipeline.h"

namespace mmtune::text {

namespace {

// model_max_length of a model without a limit is a number like 1e30.
constexpr std::int64_t kVeryLarge = 1'000'000'000;

bool flag(const Json& token, const char* key) {
  const auto found = token.find(key);
  return found != token.end() && found->is_boolean() && found->get<bool>();
}

}  // namespace

TokenizerConfig::TokenizerConfig(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
  JsonFields(json, where_);
}

const Json* TokenizerConfig::find(const char* key) const {
  const auto found = json_.find(key);
  return found == json_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<std::string> TokenizerConfig::class_name() const {
  const Json* value = find("tokenizer_class");
  if (value == nullptr) return std::nullopt;
  std::string name = value->is_string() ? value->get<std::string>() : shown(*value);
  if (name.ends_with("Fast")) name.resize(name.size() - 4);
  return name;
}

std::optional<AddedToken> TokenizerConfig::token(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return AddedToken{.content = value->get<std::string>(), .special = true};
  if (value->is_object() && value->contains("content") && (*value)["content"].is_string()) {
    return AddedToken{.content = (*value)["content"].get<std::string>(),
                      .special = true,
                      .single_word = flag(*value, "single_word"),
                      .lstrip = flag(*value, "lstrip"),
                      .rstrip = flag(*value, "rstrip"),
                      .normalized = flag(*value, "normalized")};
  }
  throw Error({.what = std::string("wrong value of '") + key + "'", .where = where_, .expected = "a token", .got = shown(*value)});
}

bool TokenizerConfig::boolean(const char* key, bool otherwise) const {
  const Json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) {
    throw Error(
        {.what = std::string("wrong value of '") + key + "'", .where = where_, .expected = "true, false or null", .got = shown(*value)});
  }
  return value->get<bool>();
}

std::int64_t TokenizerConfig::integer(const char* key, std::int64_t otherwise, std::int64_t low, std::int64_t high) const {
  return find(key) == nullptr ? otherwise : JsonFields(json_, where_).integer(key, low, high);
}

std::vector<AddedToken> TokenizerConfig::added_tokens() const {
  const Json* value = find("added_tokens_decoder");
  if (value == nullptr) return {};
  const std::string inside = where_ + ": added_tokens_decoder";
  [[maybe_unused]] const JsonFields an_object(*value, inside);
  Json list = Json::array();
  for (const auto& [id, token] : value->items()) {
    const bool digits = !id.empty() && id.size() <= 10 && std::all_of(id.begin(), id.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (!digits || !token.is_object()) throw Error({.what = "wrong entry '" + printable(id, 40) + "'", .where = inside});
    Json entry = token;
    entry["id"] = std::stoll(id);
    entry.erase("__type");
    list.push_back(std::move(entry));
  }
  std::vector<AddedToken> tokens = read_added_tokens(list, inside);
  std::sort(tokens.begin(), tokens.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  return tokens;
}

std::optional<std::int64_t> TokenizerConfig::longest() const {
  const Json* value = find("model_max_length");
  if (value == nullptr) return std::nullopt;
  if (!value->is_number() || value->get<double>() < 1) {
    throw Error({.what = "wrong value of 'model_max_length'", .where = where_, .expected = "a positive number", .got = shown(*value)});
  }
  if (value->get<double>() >= static_cast<double>(kVeryLarge)) return std::nullopt;
  return value->get<std::int64_t>();
}

void apply_tokenizer_config(PipelineParts& parts, const TokenizerConfig& config) {
  if (const auto longest = config.longest()) parts.model_max_length = longest;
  if (const auto pad = config.token("pad_token")) {
    const auto added = parts.added_tokens.find(pad->content);
    const auto id = added ? added : parts.model->vocabulary().find(pad->content);
    if (!id) throw Error({.what = "pad_token '" + printable(pad->content, 40) + "' is not in the vocabulary", .where = config.where()});
    parts.padding_id = id;
  }
}

}  // namespace mmtune::text
