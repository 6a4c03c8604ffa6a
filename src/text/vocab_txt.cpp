// BERT-type folders without tokenizer.json: vocab.txt and the settings of tokenizer_config.json, put together as transformers does.
#include <algorithm>
#include <array>
#include <unordered_map>

#include "core/error.h"
#include "text/json_fields.h"
#include "text/pipeline.h"
#include "text/unicode.h"
#include "text/wordpiece.h"

namespace mmtune::text {

namespace {

// model_max_length of a model without a limit is a number like 1e30.
constexpr std::int64_t kVeryLarge = 1'000'000'000;

/// A special token of the configuration: a string, or an object with its content.
std::optional<std::string> token_setting(const Json& config, const char* key, const std::string& where) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  if (found->is_object() && found->contains("content") && (*found)["content"].is_string()) return (*found)["content"].get<std::string>();
  throw Error({.what = std::string("wrong value of '") + key + "'", .where = where, .expected = "a token", .got = shown(*found)});
}

bool boolean_setting(const Json& config, const char* key, bool otherwise, const std::string& where) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return otherwise;
  if (!found->is_boolean()) {
    throw Error(
        {.what = std::string("wrong value of '") + key + "'", .where = where, .expected = "true, false or null", .got = shown(*found)});
  }
  return found->get<bool>();
}

// The lines of the file, ended by \n, \r\n or \r, are the tokens of ids 0, 1, …; of a token that stands there twice the last one counts.
Vocabulary read_lines(const std::string& text, const std::string& where) {
  std::vector<std::string> lines;
  std::string line;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\n' && text[i] != '\r') {
      line += text[i];
      continue;
    }
    if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') ++i;
    lines.push_back(std::move(line));
    line.clear();
  }
  if (!line.empty()) lines.push_back(std::move(line));

  std::unordered_map<std::string_view, std::size_t> last;
  for (std::size_t i = 0; i < lines.size(); ++i) last[lines[i]] = i;
  std::vector<Vocabulary::Entry> entries;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    for (std::size_t at = 0; at < lines[i].size();) {
      const std::size_t before = at;
      const char32_t code = next_code_point(lines[i], at);
      if (code == 0xFFFD && std::string_view(lines[i]).substr(before, at - before) != "\xEF\xBF\xBD") {
        throw Error({.what = "line " + std::to_string(i + 1) + " is not UTF-8", .where = where});
      }
    }
    if (last[lines[i]] == i) entries.push_back({lines[i], static_cast<std::int64_t>(i)});
  }
  return Vocabulary(entries, where);
}

void check_class(const Json& config, const std::string& where) {
  static constexpr std::array kKnown = {"BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer",
                                        "ConvBertTokenizer"};
  const auto found = config.find("tokenizer_class");
  if (found == config.end() || found->is_null()) return;
  std::string name = found->is_string() ? found->get<std::string>() : shown(*found);
  if (name.ends_with("Fast")) name.resize(name.size() - 4);
  if (std::find(kKnown.begin(), kKnown.end(), name) == kKnown.end()) {
    refuse_component(where + ": tokenizer_class", name, "a BERT-type tokenizer beside vocab.txt");
  }
}

// added_tokens_decoder: {"id": {content, special, …}}, as transformers writes it.
std::vector<AddedToken> read_added(const Json& config, const std::string& where) {
  std::vector<AddedToken> tokens;
  const auto found = config.find("added_tokens_decoder");
  if (found == config.end() || found->is_null()) return tokens;
  const std::string inside = where + ": added_tokens_decoder";
  JsonFields(*found, inside);
  Json list = Json::array();
  for (const auto& [id, token] : found->items()) {
    const bool digits = !id.empty() && id.size() <= 10 && std::all_of(id.begin(), id.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (!digits || !token.is_object()) throw Error({.what = "wrong entry '" + printable(id, 40) + "'", .where = inside});
    Json entry = token;
    entry["id"] = std::stoll(id);
    list.push_back(std::move(entry));
  }
  tokens = read_added_tokens(list, inside);
  std::sort(tokens.begin(), tokens.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  return tokens;
}

}  // namespace

PipelineParts read_vocab_txt(const std::string& vocabulary, const std::string& where, const Json& config, const std::string& config_where) {
  JsonFields(config, config_where);
  check_class(config, config_where);
  BertNormalizerOptions normalizer;
  normalizer.lowercase = boolean_setting(config, "do_lower_case", true, config_where);
  normalizer.strip_accents = boolean_setting(config, "strip_accents", normalizer.lowercase, config_where);
  normalizer.handle_chinese_chars = boolean_setting(config, "tokenize_chinese_chars", true, config_where);

  WordPieceOptions options;
  options.unknown_token = token_setting(config, "unk_token", config_where).value_or("[UNK]");
  PipelineParts parts;
  parts.normalizer = make_bert_normalizer(normalizer);
  parts.pre_tokenizer = make_bert_pre_tokenizer();
  parts.model = make_wordpiece(read_lines(vocabulary, where), options, where);
  const Vocabulary& known = parts.model->vocabulary();

  const auto required = [&](const char* key, const char* otherwise) {
    std::string token = token_setting(config, key, config_where).value_or(otherwise);
    const auto id = known.find(token);
    if (!id) throw Error({.what = std::string(key) + " '" + printable(token, 40) + "' is not in the vocabulary", .where = where});
    return std::pair(std::move(token), *id);
  };
  const auto [cls, cls_id] = required("cls_token", "[CLS]");
  const auto [sep, sep_id] = required("sep_token", "[SEP]");
  parts.post_processor = bert_post_processor(cls, cls_id, sep, sep_id);

  std::vector<AddedToken> added = read_added(config, config_where);
  const auto add_special = [&](const std::string& token) {
    const auto id = known.find(token);
    const bool listed = std::any_of(added.begin(), added.end(), [&](const AddedToken& a) { return a.content == token; });
    if (id && !listed) added.push_back({.content = token, .id = *id, .special = true});
  };
  add_special(options.unknown_token);
  add_special(cls);
  add_special(sep);
  add_special(token_setting(config, "pad_token", config_where).value_or("[PAD]"));
  add_special(token_setting(config, "mask_token", config_where).value_or("[MASK]"));
  parts.added_tokens = AddedTokens(std::move(added), known, parts.normalizer.get(), config_where);
  apply_tokenizer_config(parts, config, config_where);
  return parts;
}

void apply_tokenizer_config(PipelineParts& parts, const Json& config, const std::string& where) {
  JsonFields(config, where);
  if (const auto longest = config.find("model_max_length"); longest != config.end() && !longest->is_null()) {
    if (!longest->is_number() || longest->get<double>() < 1) {
      throw Error({.what = "wrong value of 'model_max_length'", .where = where, .expected = "a positive number", .got = shown(*longest)});
    }
    if (longest->get<double>() < static_cast<double>(kVeryLarge)) parts.model_max_length = longest->get<std::int64_t>();
  }
  if (const auto pad = token_setting(config, "pad_token", where)) {
    const auto added = parts.added_tokens.find(*pad);
    const auto id = added ? added : parts.model->vocabulary().find(*pad);
    if (!id) throw Error({.what = "pad_token '" + printable(*pad, 40) + "' is not in the vocabulary", .where = where});
    parts.padding_id = id;
  }
}

}  // namespace mmtune::text
