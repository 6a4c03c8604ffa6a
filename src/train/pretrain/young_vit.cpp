#include "train/pretrain/young_vit.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/hash.h"
#include "io/checkpoint.h"
#include "nn/weights.h"
#include "train/pretrain/young_blocks.h"

namespace mmtune::train {

namespace {

bool is_pooler(const std::string& name) {
  return name.starts_with("pooler.");
}

/// Positions as sines and cosines of column and row, a quarter of the width each: [side * side, width], of length about one half a value.
at::Tensor wave_positions(std::int64_t side, std::int64_t width) {
  const std::int64_t waves = width / 4;
  const at::Tensor frequency =
      at::pow(10000.0, at::arange(waves, at::kFloat).div(-static_cast<double>(std::max<std::int64_t>(waves - 1, 1))));
  const at::Tensor place = at::arange(side, at::kFloat);
  const auto phases = [&](const at::Tensor& axis) { return axis.reshape({-1, 1}) * frequency; };
  const at::Tensor columns = phases(place.unsqueeze(0).expand({side, side})), rows = phases(place.unsqueeze(1).expand({side, side}));
  const at::Tensor known = at::cat({columns.sin(), columns.cos(), rows.sin(), rows.cos()}, 1) * 0.5;
  return at::constant_pad_nd(known, {0, width - 4 * waves});
}

}  // namespace

Json encoder_config(const PretrainModelSection& section) {
  return {{"hidden_size", section.width},
          {"num_hidden_layers", section.layers},
          {"num_attention_heads", section.heads},
          {"intermediate_size", section.inner},
          {"hidden_act", "gelu"},
          {"hidden_dropout_prob", 0.0},
          {"attention_probs_dropout_prob", 0.0},
          {"initializer_range", 0.02},
          {"layer_norm_eps", young_epsilon},
          {"image_size", section.image_size},
          {"patch_size", section.patch_size},
          {"num_channels", 3},
          {"qkv_bias", true}};
}

Json vit_config(const PretrainModelSection& section) {
  Json config = encoder_config(section);
  config["architectures"] = {"ViTModel"};
  config["model_type"] = "vit";
  return config;
}

YoungVit::YoungVit(const PretrainModelSection& section, std::uint64_t seed)
    : section_(section), backbone_(backbones::fresh_backbone(vit_config(section), seed)) {
  for (const nn::TensorSlot& slot : backbone_->sites().tensors)
    if (!is_pooler(slot.name)) *slot.tensor = slot.tensor->detach().clone().requires_grad_(true);
  if (section.start.empty()) {
    begin_anew(seed);
  } else {
    go_on_from(section.start);
  }
}

void YoungVit::begin_anew(std::uint64_t seed) {
  const TensorScope model(backbone_->sites(), "");
  const at::Tensor positions = (model / "embeddings")("position_embeddings").detach();
  positions.zero_();
  positions.select(0, 0).slice(0, 1).copy_(wave_positions(section_.image_size / section_.patch_size, section_.width));
  // Drawn with deviation 1; the factors scale it.
  const nn::Weights fresh = nn::Weights::fresh(mix_seed(seed, 1), 1.0);
  for (std::int64_t i = 0; i < section_.layers; ++i)
    begin_mimetic(model / "encoder" / "layer" / std::to_string(i) / "attention", section_.width, section_.heads, fresh);
}

void YoungVit::go_on_from(const std::string& folder) {
  const io::Checkpoint checkpoint = io::Checkpoint::open(folder);
  const nn::Weights weights = nn::Weights::of(checkpoint, {""}, "embeddings.cls_token");
  std::vector<at::Tensor> read;
  for (const nn::NamedTensor& item : tensors()) read.push_back(weights.tensor(item.name, item.tensor.sizes()));
  const nn::LoadReport report = weights.finish();
  if (!report.unused.empty())
    throw Error({.what = "not a tower of the shape that the recipe says: it also holds " + report.unused.front(), .where = folder});
  std::size_t next = 0;
  for (const nn::NamedTensor& item : tensors()) item.tensor.detach().copy_(read[next++]);
}

std::vector<nn::NamedTensor> YoungVit::tensors() const {
  std::vector<nn::NamedTensor> all;
  for (const nn::TensorSlot& slot : backbone_->sites().tensors)
    if (!is_pooler(slot.name)) all.push_back({slot.name, *slot.tensor});
  return all;
}

at::Tensor YoungVit::operator()(const at::Tensor& pixels, bool half, const at::Tensor& kept) const {
  const TensorScope model(backbone_->sites(), "");
  const std::int64_t batch = pixels.size(0), patch = section_.patch_size, side = section_.image_size / patch;
  const auto chosen = [&kept](const at::Tensor& rows) {
    return kept.defined() ? rows.gather(1, kept.unsqueeze(2).expand({-1, -1, rows.size(2)})) : rows;
  };
  const at::Tensor patches =
      pixels.view({batch, 3, side, patch, side, patch}).permute({0, 2, 4, 1, 3, 5}).reshape({batch, side * side, 3 * patch * patch});
  const TensorScope embeddings = model / "embeddings", projection = embeddings / "patch_embeddings" / "projection";
  const at::Tensor& positions = embeddings("position_embeddings");
  const at::Tensor embedded = young_linear(chosen(patches), projection("weight").flatten(1), projection("bias"), half).to(at::kFloat);
  const at::Tensor first = embeddings("cls_token") + positions.slice(1, 0, 1);
  at::Tensor x = at::cat({first.expand({batch, 1, section_.width}), embedded + chosen(positions.slice(1, 1).expand({batch, -1, -1}))}, 1);
  for (std::int64_t i = 0; i < section_.layers; ++i)
    x = young_block(x, model / "encoder" / "layer" / std::to_string(i), section_.heads, {}, half);
  return young_norm(x, model / "layernorm");
}

}  // namespace mmtune::train
