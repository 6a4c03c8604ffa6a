// BERT-type folders without tokenizer.json: vocab.txt and the settings of tokenizer_config.json, put together as transformers does.
#include <algorithm>
#include <array>
#include <unordered_map>

#include "core/error.h"
#include "text/json_fields.h"
#include "text/pipeline.h"
#include "text/tokenizer_config.h"
#include "text/unicode.h"
#include "text/wordpiece.h"

namespace mmtune::text {

namespace {

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

void check_class(const TokenizerConfig& config) {
  static constexpr std::array kKnown = {"BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer",
                                        "ConvBertTokenizer"};
  const auto name = config.class_name();
  if (name && std::find(kKnown.begin(), kKnown.end(), *name) == kKnown.end()) {
    refuse_component(config.where() + ": tokenizer_class", *name, "a BERT-type tokenizer beside vocab.txt");
  }
}

}  // namespace

PipelineParts read_vocab_txt(const std::string& vocabulary, const std::string& where, const Json& json, const std::string& config_where) {
  const TokenizerConfig config(json, config_where);
  check_class(config);
  BertNormalizerOptions normalizer;
  normalizer.lowercase = config.boolean("do_lower_case", true);
  normalizer.strip_accents = config.boolean("strip_accents", normalizer.lowercase);
  normalizer.handle_chinese_chars = config.boolean("tokenize_chinese_chars", true);

  const auto token = [&](const char* key, const char* otherwise) {
    const auto found = config.token(key);
    return found ? found->content : std::string(otherwise);
  };
  WordPieceOptions options;
  options.unknown_token = token("unk_token", "[UNK]");
  PipelineParts parts;
  parts.normalizer = make_bert_normalizer(normalizer);
  parts.pre_tokenizer = make_bert_pre_tokenizer();
  parts.model = make_wordpiece(read_lines(vocabulary, where), options, where);
  parts.decoder = make_wordpiece_decoder("##", true);
  const Vocabulary& known = parts.model->vocabulary();

  const auto required = [&](const char* key, const char* otherwise) {
    std::string content = token(key, otherwise);
    const auto id = known.find(content);
    if (!id) throw Error({.what = std::string(key) + " '" + printable(content, 40) + "' is not in the vocabulary", .where = where});
    return std::pair(std::move(content), *id);
  };
  const auto [cls, cls_id] = required("cls_token", "[CLS]");
  const auto [sep, sep_id] = required("sep_token", "[SEP]");
  parts.post_processor = bert_post_processor(cls, cls_id, sep, sep_id);

  std::vector<AddedToken> added = config.added_tokens();
  const auto add_special = [&](const std::string& content) {
    const auto id = known.find(content);
    const bool listed = std::any_of(added.begin(), added.end(), [&](const AddedToken& a) { return a.content == content; });
    if (id && !listed) added.push_back({.content = content, .id = *id, .special = true});
  };
  add_special(options.unknown_token);
  add_special(cls);
  add_special(sep);
  add_special(token("pad_token", "[PAD]"));
  add_special(token("mask_token", "[MASK]"));
  parts.added_tokens = AddedTokens(std::move(added), known, parts.normalizer.get(), config_where);
  apply_tokenizer_config(parts, config);
  return parts;
}

}  // namespace mmtune::text
