#include "train/young_vit.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/hash.h"
#include "io/checkpoint.h"
#include "nn/weights.h"

namespace mmtune::train {

namespace {

constexpr double epsilon = 1e-6;

bool is_pooler(const std::string& name) {
  return name.starts_with("pooler.");
}

/// The tensors of one module by their names.
class Scope {
 public:
  Scope(const nn::SiteTable& table, std::string path) : table_(table), path_(std::move(path)) {}
  Scope operator/(const std::string& name) const { return {table_, path_.empty() ? name : path_ + "." + name}; }
  const at::Tensor& operator()(const std::string& name) const {
    const std::string full = path_.empty() ? name : path_ + "." + name;
    for (const nn::TensorSlot& slot : table_.tensors)
      if (slot.name == full) return *slot.tensor;
    MMTUNE_ASSERT(false);
    return *table_.tensors.front().tensor;
  }

 private:
  const nn::SiteTable& table_;
  std::string path_;
};

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, bool half) {
  if (!half) return at::linear(x, weight, bias);
  return at::linear(x.to(at::kBFloat16), weight.to(at::kBFloat16), bias.to(at::kBFloat16));
}

at::Tensor linear(const at::Tensor& x, const Scope& w, bool half) {
  return linear(x, w("weight"), w("bias"), half);
}

at::Tensor norm(const at::Tensor& x, const Scope& w) {
  return at::layer_norm(x, {x.size(-1)}, w("weight"), w("bias"), epsilon);
}

/// [B, T, D] normed → [B, T, D] before the output projection. For 65 tokens two plain products are twice as fast, backward pass included,
/// as the kernel that never forms the matrix of scores.
at::Tensor attend(const at::Tensor& x, const Scope& w, std::int64_t heads, bool half) {
  const std::int64_t batch = x.size(0), length = x.size(1), width = x.size(2), head = width / heads;
  const Scope q = w / "query", k = w / "key", v = w / "value";
  const at::Tensor qkv = linear(x, at::cat({q("weight"), k("weight"), v("weight")}), at::cat({q("bias"), k("bias"), v("bias")}), half)
                             .view({batch, length, 3, heads, head})
                             .permute({2, 0, 3, 1, 4});
  const at::Tensor scores = at::matmul(qkv[0] * (1.0 / std::sqrt(static_cast<double>(head))), qkv[1].transpose(-2, -1));
  return at::matmul(scores.softmax(-1), qkv[2]).transpose(1, 2).reshape({batch, length, width});
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

/// The two factors [D, k], [k, D] of the nearest rank-k matrix to noise · N(0, 1/D) + diagonal · I.
std::pair<at::Tensor, at::Tensor> factors(const nn::Weights& fresh, std::int64_t width, std::int64_t rank, double noise, double diagonal) {
  const at::Tensor sum =
      fresh.tensor("noise", {width, width}) * (noise / std::sqrt(static_cast<double>(width))) + at::eye(width) * diagonal;
  const auto [u, s, v] = at::linalg_svd(sum, false);
  const at::Tensor root = s.slice(0, 0, rank).sqrt();
  return {u.slice(1, 0, rank) * root, root.unsqueeze(1) * v.slice(0, 0, rank)};
}

/// Attention begins by looking at like tokens and taking a little of them away, as it does in large trained transformers (Trockman and
/// Kolter, "Mimetic initialization of self-attention layers", arXiv 2305.09828): small data sets train much faster from there.
void begin_mimetic(const Scope& attention, std::int64_t width, std::int64_t heads, const nn::Weights& fresh) {
  const std::int64_t head = width / heads;
  for (std::int64_t h = 0; h < heads; ++h) {
    const auto [q, k] = factors(fresh, width, head, 0.7, 0.7);
    (attention / "attention" / "query")("weight").detach().narrow(0, h * head, head).copy_(q.t());
    (attention / "attention" / "key")("weight").detach().narrow(0, h * head, head).copy_(k);
  }
  const auto [v, out] = factors(fresh, width, width, 0.4, -0.4);
  (attention / "attention" / "value")("weight").detach().copy_(v.t());
  (attention / "output" / "dense")("weight").detach().copy_(out.t());
}

}  // namespace

Json vit_config(const PretrainModelSection& section) {
  return {{"architectures", {"ViTModel"}},
          {"model_type", "vit"},
          {"hidden_size", section.width},
          {"num_hidden_layers", section.layers},
          {"num_attention_heads", section.heads},
          {"intermediate_size", section.inner},
          {"hidden_act", "gelu"},
          {"hidden_dropout_prob", 0.0},
          {"attention_probs_dropout_prob", 0.0},
          {"initializer_range", 0.02},
          {"layer_norm_eps", epsilon},
          {"image_size", section.image_size},
          {"patch_size", section.patch_size},
          {"num_channels", 3},
          {"qkv_bias", true}};
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
  const Scope model(backbone_->sites(), "");
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
  const Scope model(backbone_->sites(), "");
  const std::int64_t batch = pixels.size(0), patch = section_.patch_size, side = section_.image_size / patch;
  const auto chosen = [&kept](const at::Tensor& rows) {
    return kept.defined() ? rows.gather(1, kept.unsqueeze(2).expand({-1, -1, rows.size(2)})) : rows;
  };
  const at::Tensor patches =
      pixels.view({batch, 3, side, patch, side, patch}).permute({0, 2, 4, 1, 3, 5}).reshape({batch, side * side, 3 * patch * patch});
  const Scope embeddings = model / "embeddings", projection = embeddings / "patch_embeddings" / "projection";
  const at::Tensor& positions = embeddings("position_embeddings");
  const at::Tensor embedded = linear(chosen(patches), projection("weight").flatten(1), projection("bias"), half).to(at::kFloat);
  const at::Tensor first = embeddings("cls_token") + positions.slice(1, 0, 1);
  at::Tensor x = at::cat({first.expand({batch, 1, section_.width}), embedded + chosen(positions.slice(1, 1).expand({batch, -1, -1}))}, 1);
  for (std::int64_t i = 0; i < section_.layers; ++i) {
    const Scope block = model / "encoder" / "layer" / std::to_string(i);
    x = x + linear(attend(norm(x, block / "layernorm_before"), block / "attention" / "attention", section_.heads, half),
                   block / "attention" / "output" / "dense", half);
    const at::Tensor inner = at::gelu(linear(norm(x, block / "layernorm_after"), block / "intermediate" / "dense", half));
    x = x + linear(inner, block / "output" / "dense", half);
  }
  return norm(x, model / "layernorm");
}

}  // namespace mmtune::train
