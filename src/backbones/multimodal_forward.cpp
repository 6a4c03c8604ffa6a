// A multimodal model by HuggingFace's names: prompts with placeholders in, logits out. And the architectures.

#include <ATen/ATen.h>

#include <algorithm>

#include "backbones/multimodal_model.h"
#include "backbones/multimodal_names.h"
#include "backbones/named_inputs.h"
#include "backbones/registry.h"
#include "core/error.h"

namespace mmtune::backbones {

namespace {

constexpr std::int64_t unlimited = 1 << 20;

/// The tensors whose names begin with `prefix`, without it; they are taken out of `from`.
TensorMap taken(TensorMap& from, std::string_view prefix) {
  TensorMap found;
  for (auto one = from.begin(); one != from.end();) {
    if (!one->first.starts_with(prefix)) {
      ++one;
      continue;
    }
    found[one->first.substr(prefix.size())] = one->second;
    one = from.erase(one);
  }
  return found;
}

}  // namespace

at::Tensor MultimodalModel::placed(const at::Tensor& ids, const at::Tensor& visual) const {
  const at::Tensor words = embed(ids), flat = visual.reshape({-1, visual.size(2)});
  const at::Tensor places = ids.to(at::kCPU).eq(image_token_);
  const std::int64_t there = places.sum().item<std::int64_t>();
  if (there != flat.size(0))
    throw Error({.what = there == 0 ? "no image token in the prompt" : "the prompt has another number of image tokens than the pictures",
                 .where = "input_ids",
                 .expected = std::to_string(flat.size(0)) + " times the token " + std::to_string(image_token_),
                 .got = std::to_string(there)});
  // Words keep their places; the n-th placeholder becomes the n-th visual token.
  const at::Tensor order = at::where(places, places.to(at::kLong).cumsum(0) - 1 + ids.size(0), at::arange(ids.size(0), at::kLong));
  return at::cat({words, flat}).index_select(0, nn::beside(order, words));
}

ModelOutputs MultimodalModel::forward(const ModelInputs& inputs, const nn::Context& context) {
  if (multimodal_.reads_instruction)
    throw Error({.what = "the Q-Former of this model reads the instruction apart from the prompt, which this task does not give it",
                 .where = std::string(name_of(multimodal_.family))});
  MMTUNE_ASSERT(inputs.input_ids.defined() && inputs.pixel_values.defined());
  const VisualTokens visual = encode(inputs.pixel_values, {}, context);
  ModelInputs rows = inputs;
  rows.inputs_embeds = placed(inputs.input_ids, visual.tokens);
  rows.input_ids.reset();
  rows.pixel_values.reset();
  return causal_ ? causal_->forward(rows, context) : t5_->forward(rows, context);
}

TensorMap MultimodalModel::forward_named(const TensorMap& given, const nn::Context& context) {
  TensorMap inputs = given;
  TensorMap words = taken(inputs, "qformer_"), target = taken(inputs, "decoder_");
  TensorMap pictures;
  if (auto pixels = inputs.extract("pixel_values")) pictures.insert(std::move(pixels));
  if (image_token_ < 0)
    throw Error({.what = "the model has no image token, so that its prompts cannot be given as ids",
                 .where = "config.json",
                 .expected = "image_token_index"});
  const ModelInputs prompt = text_inputs(inputs, multimodal_.vocabulary, 1, unlimited, multimodal_.width);
  if (!prompt.input_ids.defined()) throw Error({.what = "input is missing", .where = "input_ids"});
  const nn::Layout& layout = prompt.text_layout;
  const std::int64_t batch = layout.batch();
  TensorMap result;
  at::Tensor rows;
  if (pictures.empty()) {
    if (prompt.input_ids.eq(image_token_).any().item<bool>())
      throw Error({.what = "the prompt has image tokens, and there is no picture", .where = "pixel_values"});
    rows = embed(prompt.input_ids);
  } else {
    const at::Tensor pixels = picture_input(pictures, 3, multimodal_.image_height, multimodal_.image_width);
    std::optional<QFormerText> text;
    if (vision_->reads_instruction) {
      if (!words.contains("input_ids")) throw Error({.what = "input is missing", .where = "qformer_input_ids"});
      const ModelInputs read = text_inputs(words, vision_->vocabulary, 1, vision_->max_words, 1);
      if (read.text_layout.batch() != pixels.size(0))
        throw Error({.what = "the Q-Former reads one instruction a picture", .where = "qformer_input_ids"});
      text = QFormerText{read.input_ids.view({pixels.size(0), -1}), read.text_layout.key_mask()};
    } else if (!words.empty()) {
      throw Error({.what = "the model has no such input", .where = "qformer_" + words.begin()->first});
    }
    const std::vector<at::Tensor> features = vision_->features(pixels, text ? &*text : nullptr, context);
    const at::Tensor visual = vision_->project(features, context);
    result["image_hidden_states"] = visual;
    rows = placed(prompt.input_ids, visual);
  }
  if (causal_) {
    if (!target.empty()) throw Error({.what = "the model has no such input", .where = "decoder_" + target.begin()->first});
    const at::Tensor states = causal_->states({rows, layout, prompt.position_ids}, nullptr, {}, context);
    result["last_hidden_state"] = states.view({batch, -1, multimodal_.width});
    result["logits"] = causal_->logits(states, context).view({batch, -1, multimodal_.vocabulary});
    return result;
  }
  const at::Tensor encoded = t5_->encode(rows, layout, context);
  result["encoder_last_hidden_state"] = encoded.view({batch, -1, multimodal_.width});
  if (target.empty()) return result;
  const ModelInputs spoken = text_inputs(target, multimodal_.vocabulary, 1, unlimited, multimodal_.width);
  if (!spoken.input_ids.defined() || spoken.text_layout.batch() != batch)
    throw Error({.what = "encoder and decoder inputs differ in their number", .where = "decoder_input_ids"});
  const at::Tensor states = t5_->decode(spoken.input_ids.view({batch, -1}), spoken.text_layout.key_mask(), encoded, layout, context);
  result["last_hidden_state"] = states.view({batch, -1, multimodal_.width});
  result["logits"] = t5_->logits(states, context).view({batch, -1, multimodal_.vocabulary});
  return result;
}

namespace {

template <MultimodalFamily family>
std::unique_ptr<Backbone> make(const Config& config, const nn::Weights& weights) {
  return std::make_unique<MultimodalModel>(family, config, weights);
}

template <MultimodalFamily family>
Architecture architecture(std::string_view type) {
  return {.model_type = type, .prefixes = {""}, .probe = "query_tokens", .make = make<family>, .tower = {}, .layout = multimodal_layout};
}

}  // namespace

Architecture llava_architecture() {
  return architecture<MultimodalFamily::llava>("llava");
}
Architecture blip2_architecture() {
  return architecture<MultimodalFamily::blip2>("blip-2");
}
Architecture instructblip_architecture() {
  return architecture<MultimodalFamily::instructblip>("instructblip");
}
Architecture minigpt4_architecture() {
  return architecture<MultimodalFamily::minigpt4>("minigpt4");
}
Architecture vpgtrans_architecture() {
  return architecture<MultimodalFamily::vpgtrans>("vpgtrans");
}
Architecture bliva_architecture() {
  return architecture<MultimodalFamily::bliva>("bliva");
}

}  // namespace mmtune::backbones
