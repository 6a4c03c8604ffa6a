#include "backbones/eva_vit.h"

#include <ATen/ATen.h>

#include "backbones/backbone.h"
#include "backbones/patches.h"
#include "core/error.h"
#include "nn/recompute.h"

namespace mmtune::backbones {

EvaShape read_eva_shape(const Config& config) {
  EvaShape shape{.width = config.integer("hidden_size", 1408),
                 .heads = config.integer("num_attention_heads", 16),
                 .inner = config.integer("intermediate_size", 6144),
                 .layers = config.integer("num_hidden_layers", 39),
                 .image = config.integer("image_size", 224),
                 .patch = config.integer("patch_size", 14),
                 .epsilon = config.number("layer_norm_eps", 1e-6),
                 .bias = config.flag("qkv_bias", true),
                 .activation = nn::activation_named(config.text("hidden_act", "gelu"), config.where())};
  shape.last_epsilon = config.number("post_layer_norm_eps", shape.epsilon);
  if (shape.width % shape.heads != 0)
    throw Error({.what = "hidden_size is not a multiple of num_attention_heads", .where = config.where()});
  if (shape.patch > shape.image) throw Error({.what = "patch_size is larger than image_size", .where = config.where()});
  return shape;
}

EvaBlock::EvaBlock(const nn::Weights& w, const EvaShape& shape, std::int64_t layer)
    : heads_(shape.heads),
      activation_(shape.activation),
      norm_before_(w / "layer_norm1", shape.width, shape.epsilon),
      qkv_(w / "self_attn" / "qkv", shape.width, 3 * shape.width, layer, false),
      projection_(w / "self_attn" / "projection", shape.width, shape.width, layer),
      norm_after_(w / "layer_norm2", shape.width, shape.epsilon),
      up_(w / "mlp" / "fc1", shape.width, shape.inner, layer),
      down_(w / "mlp" / "fc2", shape.inner, shape.width, layer) {
  if (!shape.bias) return;
  const nn::Weights attention = w / "self_attn";
  if (attention.has("qkv.bias")) {
    qkv_.site().bias = attention.tensor("qkv.bias", {3 * shape.width}, nn::Init::zeros);
    return;
  }
  const at::Tensor query = attention.tensor("q_bias", {shape.width}), value = attention.tensor("v_bias", {shape.width});
  qkv_.site().bias = at::cat({query, at::zeros_like(query), value});
}

at::Tensor EvaBlock::operator()(const at::Tensor& x, const nn::Layout& layout, const nn::Context& context) const {
  const std::vector<at::Tensor> qkv = qkv_(norm_before_(x), context).chunk(3, 1);
  const at::Tensor attended = nn::attention(qkv[0], qkv[1], qkv[2], heads_, layout, layout);
  const at::Tensor middle = x + projection_(attended, context);
  return middle + down_(nn::activate(up_(norm_after_(middle), context), activation_), context);
}

void EvaBlock::list(nn::SiteTable& table) {
  norm_before_.list(table);
  qkv_.list(table);
  projection_.list(table);
  norm_after_.list(table);
  up_.list(table);
  down_.list(table);
}

EvaVit::EvaVit(const nn::Weights& w, const EvaShape& shape)
    : shape_(shape), path_(w.path()), norm_(w / "post_layernorm", shape.width, shape.last_epsilon) {
  const nn::Weights embeddings = w / "embeddings";
  class_token_ = embeddings.tensor("class_embedding", {1, 1, shape.width});
  positions_ = embeddings.tensor("position_embedding", {1, shape.patches() + 1, shape.width});
  patch_weight_ = embeddings.tensor("patch_embedding.weight", {shape.width, 3, shape.patch, shape.patch});
  patch_bias_ = embeddings.tensor("patch_embedding.bias", {shape.width}, nn::Init::zeros);
  for (std::int64_t layer = 0; layer < shape.layers; ++layer)
    blocks_.push_back(std::make_unique<EvaBlock>(w / "encoder" / "layers" / layer, shape, layer));
}

EvaVit::Rows EvaVit::operator()(const at::Tensor& pixels, bool with_previous, const nn::Context& context) const {
  const std::int64_t batch = pixels.size(0), width = shape_.width;
  const at::Tensor embedded = nn::frozen_matrix(patches_of(pixels, shape_.patch, shape_.patch), patch_weight_.view({width, -1}),
                                                patch_bias_, context.matmul_precision);
  const at::Tensor x = at::cat({class_token_.expand({batch, 1, width}), embedded}, 1) + positions_;
  nn::Tokens tokens{x.reshape({-1, width}), nn::Layout::uniform(batch, shape_.patches() + 1)};
  Rows rows;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    if (with_previous && i + 1 == blocks_.size()) rows.previous = tokens.rows;
    nn::run_block(tokens, context, [block = blocks_[i].get()](nn::Tokens& inner, const nn::Context& with) {
      inner.rows = (*block)(inner.rows, inner.layout, with);
    });
  }
  rows.last = tokens.rows;
  rows.normed = norm_(rows.last);
  return rows;
}

void EvaVit::list(nn::SiteTable& table) {
  const std::string path = path_ + ".embeddings.";
  table.tensors.insert(table.tensors.end(), {{path + "class_embedding", &class_token_},
                                             {path + "position_embedding", &positions_},
                                             {path + "patch_embedding.weight", &patch_weight_},
                                             {path + "patch_embedding.bias", &patch_bias_}});
  for (auto& block : blocks_) block->list(table);
  norm_.list(table);
}

std::int64_t EvaVit::macs() const {
  return shape_.patches() * 3 * shape_.patch * shape_.patch * shape_.width +
         encoder_macs(shape_.layers, shape_.width, shape_.inner, shape_.patches() + 1, false);
}

}  // namespace mmtune::backbones
