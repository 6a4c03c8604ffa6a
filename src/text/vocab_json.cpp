// BPE folders without tokenizer.json: vocab.json, merges.txt and the settings of tokenizer_config.json, put together as transformers does
// for the class of the tokenizer.
#include <algorithm>
#include <initializer_list>
#include <tuple>

#include "core/error.h"
#include "text/bpe.h"
#include "text/byte_level.h"
#include "text/pipeline.h"
#include "text/special_tokens.h"
#include "text/tokenizer_config.h"

namespace mmtune::text {

namespace {

enum class Family { roberta, gpt2, clip };

Family family_of(const TokenizerConfig& config, const std::string& model_type) {
  // A folder that does not name its tokenizer has its model's own.
  const auto name = config.class_name();
  const auto is_one_of = [&](std::initializer_list<const char*> names) {
    return std::find(names.begin(), names.end(), *name) != names.end();
  };
  if (name ? is_one_of({"RobertaTokenizer", "BartTokenizer", "OFATokenizer"}) : model_type == "roberta" || model_type == "ofa")
    return Family::roberta;
  if (name ? *name == "GPT2Tokenizer" : model_type == "gpt2" || model_type == "opt") return Family::gpt2;
  if (name ? *name == "CLIPTokenizer" : model_type.starts_with("clip")) return Family::clip;
  throw Error({.what = "vocab.json and merges.txt of an unknown tokenizer",
               .where = config.where() + ": tokenizer_class",
               .expected = "RobertaTokenizer, BartTokenizer, OFATokenizer, GPT2Tokenizer or CLIPTokenizer",
               .got = name ? printable(*name, 60) : "nothing, and model_type \"" + printable(model_type, 60) + "\"",
               .hint = "save the tokenizer with transformers to get a tokenizer.json"});
}

// In the order in which transformers adds them.
std::vector<SpecialTokenDefault> special_tokens(Family family) {
  constexpr const char* kText = "<|endoftext|>";
  switch (family) {
    case Family::roberta:
      return {{"bos_token", "<s>"},   {"eos_token", "</s>"}, {"unk_token", "<unk>"},  {"sep_token", "</s>"},
              {"pad_token", "<pad>"}, {"cls_token", "<s>"},  {"mask_token", "<mask>"}};
    case Family::gpt2:
      return {{"bos_token", kText},   {"eos_token", kText},   {"unk_token", kText},   {"sep_token", nullptr},
              {"pad_token", nullptr}, {"cls_token", nullptr}, {"mask_token", nullptr}};
    case Family::clip:
      return {{"bos_token", "<|startoftext|>"}, {"eos_token", kText},   {"unk_token", kText}, {"sep_token", nullptr}, {"pad_token", kText},
              {"cls_token", nullptr},           {"mask_token", nullptr}};
  }
  return {};
}

bool is_ofa(const TokenizerConfig& config, const std::string& model_type) {
  const auto name = config.class_name();
  return name ? *name == "OFATokenizer" : model_type == "ofa";
}

/// Of OFA: the codes of pictures and the bins of places, which its tokenizer's code puts behind the vocabulary. Our own keys num_codes and
/// num_bins say that there are fewer.
std::vector<AddedToken> ofa_tokens(const Vocabulary& vocabulary, const Json& config, const std::string& where) {
  std::vector<AddedToken> added;
  std::int64_t next = static_cast<std::int64_t>(vocabulary.size());
  for (const auto& [name, key, usual] : {std::tuple("<code_", "num_codes", 8192), std::tuple("<bin_", "num_bins", 1000)}) {
    std::int64_t count = usual;
    if (config.is_object() && config.contains(key)) {
      const Json& value = config[key];
      if (!value.is_number_integer() || value < 0 || value > usual)
        throw Error({.what = std::string(key) + " is wrong",
                     .where = where,
                     .expected = "0 to " + std::to_string(usual),
                     .got = printable(value.dump(), 60)});
      count = value.get<std::int64_t>();
    }
    for (std::int64_t i = 0; i < count; ++i) {
      const std::string content = name + std::to_string(i) + ">";
      const auto id = vocabulary.find(content);
      added.push_back({.content = content, .id = id ? *id : next++});
    }
  }
  return added;
}

}  // namespace

PipelineParts read_vocab_json(const VocabJsonFiles& files) {
  const TokenizerConfig config(files.config, files.config_where);
  const Family family = family_of(config, files.model_type);
  Vocabulary vocabulary = read_vocabulary(files.vocabulary, files.vocabulary_where);
  const auto merges = read_merges_txt(files.merges, files.merges_where);

  BpeOptions options;
  if (family == Family::clip) {
    options.end_of_word_suffix = "</w>";
    const auto unknown = config.token("unk_token");
    options.unknown_token = unknown ? unknown->content : "<|endoftext|>";
  }
  PipelineParts parts;
  parts.model = make_bpe(std::move(vocabulary), merges, options, files.merges_where);
  parts.decoder = make_byte_level_decoder();
  std::vector<AddedToken> added = config.added_tokens();
  if (added.empty() && is_ofa(config, files.model_type)) added = ofa_tokens(parts.model->vocabulary(), files.config, files.config_where);
  SpecialTokens special(special_tokens(family), config, parts.model->vocabulary(), std::move(added));

  const bool add_prefix_space = family != Family::clip && config.boolean("add_prefix_space", false);
  if (family == Family::clip) {
    parts.normalizer = make_clip_normalizer();
    parts.pre_tokenizer = make_clip_pre_tokenizer();
    const AddedToken &begin = special.named("bos_token"), &end = special.named("eos_token");
    parts.post_processor = roberta_post_processor(begin.content, begin.id, end.content, end.id);
  } else {
    parts.pre_tokenizer = make_byte_level(add_prefix_space, true);
    parts.post_processor = plain_post_processor();
  }
  if (family == Family::roberta) {
    const AddedToken &cls = special.named("cls_token"), &sep = special.named("sep_token");
    parts.post_processor = roberta_post_processor(cls.content, cls.id, sep.content, sep.id);
    if (config.boolean("trim_offsets", true)) {
      parts.post_processor.trim = add_prefix_space ? OffsetTrim::but_the_added : OffsetTrim::all_spaces;
    }
  }
  if (family == Family::gpt2) {  // OPT has such a folder too, with a </s> in front
    const bool begins = config.boolean("add_bos_token", false), ends = config.boolean("add_eos_token", false);
    if (begins || ends) {
      parts.post_processor =
          framing_post_processor(begins ? &special.named("bos_token") : nullptr, ends ? &special.named("eos_token") : nullptr);
    }
  }
  if (family != Family::gpt2) parts.padding_id = special.named("pad_token").id;
  parts.added_tokens = AddedTokens(special.take(), parts.model->vocabulary(), parts.normalizer.get(), files.config_where);
  apply_tokenizer_config(parts, config);
  return parts;
}

}  // namespace mmtune::text
