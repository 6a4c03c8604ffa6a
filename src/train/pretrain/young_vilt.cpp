#include "train/pretrain/young_vilt.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/error.h"
#include "core/hash.h"
#include "io/checkpoint.h"
#include "nn/weights.h"
#include "train/pretrain/young_blocks.h"
#include "train/pretrain/young_vit.h"

namespace mmtune::train {

namespace {

constexpr double deviation = 0.02;

}  // namespace

Json vilt_config(const PairsModelSection& section, std::int64_t vocabulary) {
  const std::int64_t side = section.image_size / section.patch_size;
  Json config = encoder_config(section);
  config.update({{"architectures", {"ViltForMaskedLM"}},
                 {"model_type", "vilt"},
                 {"vocab_size", vocabulary},
                 {"max_position_embeddings", section.positions},
                 {"type_vocab_size", 2},
                 {"modality_type_vocab_size", 2},
                 {"cls_token_id", 2},
                 {"pad_token_id", 0},
                 {"max_image_length", side * side},
                 {"num_images", -1},
                 {"tie_word_embeddings", true}});
  return config;
}

YoungVilt::YoungVilt(const PairsModelSection& section, const at::Tensor& words, std::uint64_t seed)
    : section_(section), config_(vilt_config(section, words.size(0))), backbone_(backbones::fresh_backbone(config_, seed)) {
  for (const nn::TensorSlot& slot : backbone_->sites().tensors) *slot.tensor = slot.tensor->detach().clone().requires_grad_(true);
  const TensorScope model(backbone_->sites(), "");
  (model / "embeddings" / "text_embeddings")("word_embeddings.weight").detach().copy_(words);
  const nn::Weights fresh = nn::Weights::fresh(mix_seed(seed, 1), 1.0), heads = nn::Weights::fresh(mix_seed(seed, 2), deviation);
  for (std::int64_t i = 0; i < section_.layers; ++i)
    begin_mimetic(model / "encoder" / "layer" / std::to_string(i) / "attention", section_.width, section_.heads, fresh);
  const auto zeros = [](std::int64_t size) { return at::zeros({size}, at::kFloat).requires_grad_(true); };
  transform_ = {heads.tensor("transform", {section_.width, section_.width}).requires_grad_(true), zeros(section_.width)};
  norm_ = {at::ones({section_.width}, at::kFloat).requires_grad_(true), zeros(section_.width)};
  rank_ = {heads.tensor("rank", {1, section_.width}).requires_grad_(true), zeros(1)};
  word_bias_ = zeros(words.size(0));
  if (!section_.start.empty()) go_on_from(section_.start);
}

void YoungVilt::go_on_from(const std::string& folder) {
  const io::Checkpoint checkpoint = io::Checkpoint::open(folder);
  const nn::Weights weights = nn::Weights::of(checkpoint, {"", "vit."}, "embeddings.cls_token");
  std::vector<std::pair<at::Tensor, at::Tensor>> read;  // all of them before any is copied: finish() tells everything that is wrong at once
  for (const nn::TensorSlot& slot : backbone_->sites().tensors) {
    if (slot.name.starts_with("embeddings.text_embeddings.") || slot.name.starts_with("embeddings.token_type_embeddings.") ||
        slot.name.starts_with("pooler.") || (slot.name.starts_with("encoder.layer.") && !weights.shape_of(slot.name)))
      continue;
    read.emplace_back(*slot.tensor, weights.tensor(slot.name, slot.tensor->sizes()));
  }
  weights.finish();
  for (const auto& [into, from] : read) into.detach().copy_(from);
}

std::vector<nn::NamedTensor> YoungVilt::tensors() const {
  std::vector<nn::NamedTensor> all;
  for (const nn::TensorSlot& slot : backbone_->sites().tensors) all.push_back({"vilt." + slot.name, *slot.tensor});
  all.push_back({"mlm_score.transform.dense.weight", transform_.weight});
  all.push_back({"mlm_score.transform.dense.bias", transform_.bias});
  all.push_back({"mlm_score.transform.LayerNorm.weight", norm_.weight});
  all.push_back({"mlm_score.transform.LayerNorm.bias", norm_.bias});
  all.push_back({"mlm_score.bias", word_bias_});
  all.push_back({"rank_output.weight", rank_.weight});
  all.push_back({"rank_output.bias", rank_.bias});
  return all;
}

at::Tensor YoungVilt::operator()(const at::Tensor& ids, const at::Tensor& padding, const at::Tensor& pixels, bool half) const {
  const TensorScope model(backbone_->sites(), ""), embeddings = model / "embeddings", text = embeddings / "text_embeddings";
  const std::int64_t batch = ids.size(0), length = ids.size(1), patch = section_.patch_size, side = section_.image_size / patch;
  const at::Tensor& kinds = embeddings("token_type_embeddings.weight");
  const at::Tensor words = at::embedding(text("word_embeddings.weight"), ids) + text("token_type_embeddings.weight").slice(0, 0, 1) +
                           text("position_embeddings.weight").slice(0, 0, length);
  const at::Tensor patches =
      pixels.view({batch, 3, side, patch, side, patch}).permute({0, 2, 4, 1, 3, 5}).reshape({batch, side * side, 3 * patch * patch});
  const TensorScope projection = embeddings / "patch_embeddings" / "projection";
  const at::Tensor& positions = embeddings("position_embeddings");
  const at::Tensor seen =
      young_linear(patches, projection("weight").flatten(1), projection("bias"), half).to(at::kFloat) + positions.slice(1, 1);
  const at::Tensor first = (embeddings("cls_token") + positions.slice(1, 0, 1)).expand({batch, 1, section_.width});
  at::Tensor x = at::cat({young_norm(words, text / "LayerNorm") + kinds[0], at::cat({first, seen}, 1) + kinds[1]}, 1);
  const at::Tensor hidden = at::cat({padding, at::zeros({batch, 1 + side * side}, at::kBool)}, 1);
  for (std::int64_t i = 0; i < section_.layers; ++i)
    x = young_block(x, model / "encoder" / "layer" / std::to_string(i), section_.heads, hidden, half);
  return young_norm(x, model / "layernorm");
}

at::Tensor YoungVilt::word_logits(const at::Tensor& rows, bool half) const {
  const at::Tensor inner = at::layer_norm(at::gelu(at::linear(rows, transform_.weight, transform_.bias)), {section_.width}, norm_.weight,
                                          norm_.bias, young_epsilon);
  const TensorScope text(backbone_->sites(), "embeddings.text_embeddings");
  return young_linear(inner, text("word_embeddings.weight"), word_bias_, half).to(at::kFloat);
}

at::Tensor YoungVilt::match_logits(const at::Tensor& states) const {
  const TensorScope pooler(backbone_->sites(), "pooler.dense");
  const at::Tensor pooled = at::tanh(at::linear(states.select(1, 0), pooler("weight"), pooler("bias")));
  return at::linear(pooled, rank_.weight, rank_.bias).squeeze(1);
}

}  // namespace mmtune::train
