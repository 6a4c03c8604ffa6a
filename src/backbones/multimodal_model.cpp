#include "backbones/multimodal_model.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "backbones/generation.h"
#include "core/error.h"

namespace mmtune::backbones {

namespace {

bool has_q_former_text(MultimodalFamily family) {
  return family == MultimodalFamily::instructblip || family == MultimodalFamily::bliva;
}

at::Tensor ids_tensor(std::span<const std::int64_t> ids) {
  return at::tensor(at::ArrayRef<std::int64_t>(ids.data(), ids.size()), at::kLong);
}

std::int64_t token_id(const Config& config, std::initializer_list<const char*> keys, std::int64_t fallback) {
  for (const char* key : keys)
    if (config.has(key)) return static_cast<std::int64_t>(config.number(key, 0));
  return fallback;
}

/// Refuses a model of which whole parts are missing, by their names.
void require_parts(const nn::Weights& w, MultimodalFamily family, bool t5) {
  std::vector<std::pair<const char*, const char*>> parts;
  if (family == MultimodalFamily::llava) {
    parts = {{"vision tower", "vision_tower.embeddings.class_embedding"}, {"projector", "multi_modal_projector.linear_1.weight"}};
  } else {
    parts = {{"vision encoder", "vision_model.embeddings.class_embedding"},
             {"norm behind the vision encoder", "vision_model.post_layernorm.weight"},
             {"queries", "query_tokens"},
             {"Q-Former", "qformer.encoder.layer.0.attention.attention.query.weight"},
             {"projection into the language model", "language_projection.weight"}};
    if (family == MultimodalFamily::bliva) parts.emplace_back("projection of patches", "vision_project.weight");
  }
  parts.emplace_back("language model",
                     t5 ? "language_model.encoder.final_layer_norm.weight" : "language_model.layers.0.self_attn.q_proj.weight");
  std::string missing;
  for (const auto& [part, probe] : parts)
    if (!w.has(probe)) missing += (missing.empty() ? "" : ", ") + std::string(part);
  if (!missing.empty())
    throw Error({.what = "parts of the model are missing: " + missing,
                 .where = std::string(name_of(family)),
                 .expected = "their tensors in the checkpoint, or in the files that \"parts\" of config.json names"});
}

}  // namespace

MultimodalModel::MultimodalModel(MultimodalFamily family, const Config& config, const nn::Weights& w) {
  const Config text = config.section("text_config");
  const std::string type = text.text("model_type", family == MultimodalFamily::blip2 ? "opt" : "llama");
  // As transformers' modules are called, so that experts go to and from PEFT.
  const bool llava = family == MultimodalFamily::llava;
  const nn::Weights body = w / (llava || type == "t5" ? "language_model"
                                : type == "opt"       ? "language_model.model.decoder"
                                                      : "language_model.model");
  const nn::Weights head = w / (llava ? "lm_head" : "language_model.lm_head");
  require_parts(w, family, type == "t5");
  if (type == "llama") {
    causal_ = make_llama(text, body, head);
  } else if (type == "opt") {
    causal_ = make_opt(text, body, head);
  } else if (type == "t5") {
    t5_ = std::make_unique<T5>(text, body, head);
  } else {
    throw Error({.what = "the language model is not supported",
                 .where = text.where(),
                 .expected = "model_type llama, opt or t5",
                 .got = "\"" + printable(type) + "\""});
  }
  const std::int64_t width = causal_ ? causal_->embedding_width() : t5_->shape().width;
  vision_ = llava ? make_llava_vision(config, w, width)
                  : make_q_former_vision(config, w, width, has_q_former_text(family), family == MultimodalFamily::bliva);
  report_ = w.finish();
  Backbone& language = causal_ ? static_cast<Backbone&>(*causal_) : *t5_;
  sites_ = language.sites();
  vision_->list(sites_);
  sites_.inputs.push_back(&pixels_);
  info_ = language.info();
  info_.architecture = name_of(family);
  info_.modality = Modality::text_image;
  info_.image_height = vision_->image_height;
  info_.image_width = vision_->image_width;
  info_.image_channels = 3;
  image_token_ = token_id(config, {"image_token_index", "image_token_id"}, -1);
  padding_ = token_id(text, {"pad_token_id"}, -1);
  beginning_ = token_id(text, {"bos_token_id"}, 0);
  multimodal_ = {.family = family,
                 .image_height = vision_->image_height,
                 .image_width = vision_->image_width,
                 .mean = {0.48145466, 0.4578275, 0.40821073},
                 .std = {0.26862954, 0.26130258, 0.27577711},
                 .visual_tokens = vision_->tokens,
                 .width = width,
                 .vocabulary = causal_ ? causal_->vocabulary() : t5_->shape().vocabulary,
                 .reads_instruction = vision_->reads_instruction,
                 .encoder_decoder = t5_ != nullptr};
  format_.scores_patches = family != MultimodalFamily::bliva;
  if (t5_) {
    format_.training.tail = format_.generation.tail = {t5_->shape().end};
    format_.answer_end = {t5_->shape().end};
  }
}

QFormerText MultimodalModel::words_for_q_former(std::span<const Instruction> instructions) const {
  std::size_t longest = 0;
  for (const Instruction& one : instructions) {
    if (one.qformer.empty())
      throw Error({.what = "an instruction lacks the tokens that the Q-Former reads", .where = std::string(name_of(multimodal_.family))});
    longest = std::max(longest, one.qformer.size());
  }
  const auto count = static_cast<std::int64_t>(instructions.size());
  QFormerText text{.ids = at::zeros({count, static_cast<std::int64_t>(longest)}, at::kLong),
                   .mask = at::zeros({count, static_cast<std::int64_t>(longest)}, at::kBool)};
  for (std::int64_t i = 0; i < count; ++i) {
    const TokenIds& ids = instructions[static_cast<std::size_t>(i)].qformer;
    text.ids[i].narrow(0, 0, static_cast<std::int64_t>(ids.size())).copy_(ids_tensor(ids));
    text.mask[i].narrow(0, 0, static_cast<std::int64_t>(ids.size())).fill_(true);
  }
  if (text.mask.all().item<bool>()) text.mask.reset();
  return text;
}

VisualTokens MultimodalModel::encode(const at::Tensor& pixels, std::span<const Instruction> instructions, const nn::Context& context) {
  const bool fits =
      pixels.dim() == 4 && pixels.size(1) == 3 && pixels.size(2) == multimodal_.image_height && pixels.size(3) == multimodal_.image_width;
  if (!fits)
    throw Error({.what = "pictures of another size than the model's",
                 .where = "pixel_values",
                 .expected = "[B, 3, " + std::to_string(multimodal_.image_height) + ", " + std::to_string(multimodal_.image_width) + "]",
                 .got = c10::str(pixels.sizes())});
  const at::Tensor shown = pixels_.hook != nullptr ? pixels_.hook->apply(pixels, context) : pixels;
  std::optional<QFormerText> text;
  if (vision_->reads_instruction) {
    const auto count = static_cast<std::int64_t>(instructions.size());
    if (count != 1 && count != pixels.size(0))
      throw Error({.what = "the Q-Former reads an instruction",
                   .where = std::string(name_of(multimodal_.family)),
                   .expected = "one for all pictures, or one each",
                   .got = std::to_string(count)});
    text = words_for_q_former(instructions);
  }
  VisualTokens made{.tokens = {}, .features = vision_->features(shown, text ? &*text : nullptr, context)};
  made.tokens = vision_->project(made.features, context);
  return made;
}

at::Tensor MultimodalModel::project(std::span<const at::Tensor> features, const nn::Context& context) {
  return vision_->project(features, context);
}

MultimodalModel::Prompts MultimodalModel::prompts(const at::Tensor& visual, std::span<const Instruction> instructions,
                                                  const PromptPieces& pieces, std::span<const TokenIds> behind) const {
  const std::int64_t batch = visual.size(0), tokens = visual.size(1);
  MMTUNE_ASSERT(instructions.size() == 1 || static_cast<std::int64_t>(instructions.size()) == batch);
  // Words are looked up together; then one gather from words and visual tokens puts every sequence in order.
  TokenIds words;
  std::vector<std::int64_t> order;  // words count from 0; visual tokens from -1 down
  Prompts result;
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::size_t first = order.size();
    const auto say = [&](const TokenIds& ids) {
      for (const std::int64_t id : ids) {
        order.push_back(static_cast<std::int64_t>(words.size()));
        words.push_back(id);
      }
    };
    say(pieces.before);
    for (std::int64_t i = 0; i < tokens; ++i) order.push_back(-1 - (b * tokens + i));
    say(pieces.behind);
    say(instructions[instructions.size() == 1 ? 0 : static_cast<std::size_t>(b)].words);
    say(pieces.tail);
    if (!behind.empty()) say(behind[static_cast<std::size_t>(b)]);
    result.lengths.push_back(static_cast<std::int64_t>(order.size() - first));
  }
  const auto count = static_cast<std::int64_t>(words.size());
  for (std::int64_t& place : order)
    if (place < 0) place = count - 1 - place;
  const at::Tensor flat = visual.reshape({batch * tokens, visual.size(2)});
  const at::Tensor source = words.empty() ? flat : at::cat({embed(ids_tensor(words)), flat});
  result.rows = source.index_select(0, nn::beside(ids_tensor(order), source));
  return result;
}

LanguageRows MultimodalModel::padded(const Prompts& prompts, bool left) const {
  const std::int64_t longest = *std::max_element(prompts.lengths.begin(), prompts.lengths.end());
  const auto batch = static_cast<std::int64_t>(prompts.lengths.size());
  if (std::ranges::all_of(prompts.lengths, [&](std::int64_t length) { return length == longest; }))
    return {.embeds = prompts.rows, .layout = nn::Layout::uniform(batch, longest), .positions = {}};
  std::vector<at::Tensor> rows;
  at::Tensor mask = at::zeros({batch, longest}, at::kBool);
  std::int64_t b = 0;
  for (const at::Tensor& one : prompts.rows.split_with_sizes(prompts.lengths, 0)) {
    const std::int64_t missing = longest - one.size(0);
    rows.push_back(at::constant_pad_nd(one, {0, 0, left ? missing : 0, left ? 0 : missing}));
    mask[b++].narrow(0, left ? missing : 0, one.size(0)).fill_(true);
  }
  return {.embeds = at::cat(rows), .layout = nn::Layout::uniform(batch, longest, nn::beside(mask, prompts.rows)), .positions = {}};
}

TaskLoss MultimodalModel::task_loss(const at::Tensor& visual, std::span<const Instruction> instructions, std::span<const TokenIds> answers,
                                    const nn::Context& context) {
  MMTUNE_ASSERT(static_cast<std::int64_t>(answers.size()) == visual.size(0));
  TokenIds targets;
  std::vector<TokenIds> read;  // all but the last token of an answer: nothing is predicted from it
  std::vector<std::int64_t> counts;
  for (const TokenIds& answer : answers) {
    if (answer.empty()) throw Error({.what = "an answer has no tokens", .where = "answer " + std::to_string(counts.size() + 1)});
    targets.insert(targets.end(), answer.begin(), answer.end());
    read.emplace_back(answer.begin(), answer.end() - 1);
    counts.push_back(static_cast<std::int64_t>(answer.size()));
  }
  at::Tensor logits;
  if (causal_) {
    const Prompts all = prompts(visual, instructions, format_.training, read);
    const LanguageRows rows{.embeds = all.rows, .layout = nn::Layout::packed(all.lengths), .positions = {}};
    logits = causal_->logits(causal_->states(rows, nullptr, counts, context), context);
  } else {
    const LanguageRows source = padded(prompts(visual, instructions, format_.training, {}), false);
    const at::Tensor encoded = t5_->encode(source.embeds, source.layout, context);
    const auto batch = static_cast<std::int64_t>(answers.size()), longest = *std::max_element(counts.begin(), counts.end());
    at::Tensor words = at::full({batch, longest}, t5_->shape().padding, at::kLong);
    std::vector<std::int64_t> wanted;
    for (std::int64_t b = 0; b < batch; ++b) {
      TokenIds row = {t5_->shape().start};
      const TokenIds& more = read[static_cast<std::size_t>(b)];
      row.insert(row.end(), more.begin(), more.end());
      words[b].narrow(0, 0, static_cast<std::int64_t>(row.size())).copy_(ids_tensor(row));
      for (std::int64_t i = 0; i < counts[static_cast<std::size_t>(b)]; ++i) wanted.push_back(b * longest + i);
    }
    // What stands behind an answer is not seen by what stands before it, so that no mask is needed.
    const at::Tensor states = t5_->decode(words, {}, encoded, source.layout, context);
    logits = t5_->logits(states.index_select(0, nn::beside(ids_tensor(wanted), states)), context);
  }
  const at::Tensor sum = at::cross_entropy_loss(logits, nn::beside(ids_tensor(targets), logits), {}, at::Reduction::Sum);
  return {.sum = sum, .tokens = static_cast<std::int64_t>(targets.size())};
}

std::unique_ptr<CachedDecoder> MultimodalModel::read(const at::Tensor& visual, std::span<const Instruction> instructions,
                                                     const PromptPieces& pieces, const nn::Context& context, bool all_but_last,
                                                     TokenIds& last) const {
  if (t5_) {
    const LanguageRows source = padded(prompts(visual, instructions, pieces, {}), false);
    return t5_->decoder(t5_->encode(source.embeds, source.layout, context), source.layout, context);
  }
  std::vector<Instruction> own(instructions.begin(), instructions.end());
  PromptPieces shorter = pieces;
  if (all_but_last) {
    const auto take = [&](TokenIds& ids) {
      if (ids.empty()) return false;
      last.push_back(ids.back());
      ids.pop_back();
      return true;
    };
    // The last token of a prompt is its tail's, the instruction's, or what stands behind the picture.
    if (!take(shorter.tail)) {
      const bool said = std::ranges::all_of(own, [](const Instruction& one) { return !one.words.empty(); });
      if (said) {
        for (Instruction& one : own) take(one.words);
      } else if (!std::ranges::all_of(own, [](const Instruction& one) { return one.words.empty(); }) || !take(shorter.behind)) {
        throw Error({.what = "a prompt has no words behind its picture, so that nothing can be generated",
                     .where = std::string(name_of(multimodal_.family)),
                     .expected = "an instruction"});
      }
    }
  }
  const LanguageRows rows = padded(prompts(visual, own, shorter, {}), true);
  return causal_decoder(*causal_, rows, context);
}

MultimodalLm::Begun MultimodalModel::begin(const at::Tensor& visual, std::span<const Instruction> instructions, const PromptPieces& pieces,
                                           const nn::Context& context) {
  const at::NoGradGuard no_grad;
  const std::int64_t batch = visual.size(0);
  TokenIds last;
  std::unique_ptr<CachedDecoder> decoder = read(visual, instructions, pieces, context, true, last);
  if (t5_) last = {t5_->shape().start};
  const at::Tensor start = ids_tensor(last).unsqueeze(1);
  return {.decoder = std::move(decoder), .start = start.size(0) == batch ? start : start.expand({batch, 1}).contiguous()};
}

at::Tensor MultimodalModel::candidate_scores(const at::Tensor& given, std::span<const Instruction> instructions,
                                             std::span<const TokenIds> candidates, const ScoreOptions& options,
                                             const nn::Context& context) {
  const at::NoGradGuard no_grad;
  const CandidateTrie trie(candidates, std::nullopt);
  const bool official = options.format == SequenceFormat::official;
  const at::Tensor visual = official && !format_.scores_patches ? given.narrow(1, 0, vision_->query_tokens()) : given;
  TokenIds none;
  const std::unique_ptr<CachedDecoder> decoder =
      read(visual, instructions, official ? format_.scoring : format_.training, context, false, none);
  if (t5_) decoder->read(at::full({given.size(0), 1}, t5_->shape().start, at::kLong));
  return rank_candidates(*decoder, trie, {.mean = options.reduction == ScoreReduction::mean, .among_candidates = false});
}

std::int64_t MultimodalModel::macs(std::int64_t words, bool) const {
  const std::int64_t tokens = words + multimodal_.visual_tokens;
  return vision_->macs() + (causal_ ? causal_->reading_macs(tokens, 1) : t5_->macs(tokens, false) + t5_->decoder_macs(1, tokens));
}

}  // namespace mmtune::backbones
