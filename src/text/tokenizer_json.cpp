// The sections of tokenizer.json (format version 1.0 of the `tokenizers` package).
#include "core/error.h"
#include "text/json_fields.h"
#include "text/pipeline.h"

namespace mmtune::text {

namespace {

// Our encode never pads by itself; the section gives the padding's id and type.
void read_padding(const Json& json, const std::string& where, PipelineParts& parts) {
  JsonFields fields(json, where);
  parts.padding_id = fields.integer("pad_id", 0, Vocabulary::kLargestId);
  parts.padding_type_id = fields.integer("pad_type_id", 0, Vocabulary::kLargestId);
  fields.string("pad_token");
  const Json& strategy = fields.any("strategy");
  const bool longest = strategy.is_string() && strategy.get<std::string>() == "BatchLongest";
  const bool fixed = strategy.is_object() && strategy.size() == 1 && strategy.contains("Fixed") && strategy["Fixed"].is_number_unsigned();
  if (!longest && !fixed) fields.fail("strategy", "BatchLongest or {\"Fixed\": length}", strategy);
  if (const Json* side = fields.optional("direction"); side != nullptr && *side != "Left" && *side != "Right") {
    fields.fail("direction", "Left or Right", *side);
  }
  if (fields.optional("pad_to_multiple_of") != nullptr) fields.integer("pad_to_multiple_of", 0, Vocabulary::kLargestId);
  fields.finish();
}

}  // namespace

PipelineParts read_tokenizer_json(const Json& json, const std::string& where) {
  JsonFields fields(json, where);
  PipelineParts parts;
  if (const Json* version = fields.optional("version"); version != nullptr && *version != "1.0")
    fields.fail("version", "\"1.0\"", *version);
  parts.model = read_model(fields.any("model"), where + ": model");
  if (const Json* section = fields.optional("normalizer")) parts.normalizer = read_normalizer(*section, where + ": normalizer");
  if (const Json* section = fields.optional("pre_tokenizer")) parts.pre_tokenizer = read_pre_tokenizer(*section, where + ": pre_tokenizer");
  if (const Json* section = fields.optional("post_processor")) {
    parts.post_processor = read_post_processor(*section, where + ": post_processor");
  } else {
    parts.post_processor = plain_post_processor();
  }
  if (const Json* section = fields.optional("decoder")) parts.decoder = read_decoder(*section, where + ": decoder");
  if (const Json* section = fields.optional("truncation")) parts.truncation = read_truncation(*section, where + ": truncation");
  if (const Json* section = fields.optional("padding")) read_padding(*section, where + ": padding", parts);
  std::vector<AddedToken> added;
  if (const Json* section = fields.optional("added_tokens")) added = read_added_tokens(*section, where + ": added_tokens");
  parts.added_tokens = AddedTokens(std::move(added), parts.model->vocabulary(), parts.normalizer.get(), where + ": added_tokens");
  return parts;  // unknown sections the package leaves alone too
}

}  // namespace mmtune::text
