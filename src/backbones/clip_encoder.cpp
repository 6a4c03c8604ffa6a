#include "backbones/clip_encoder.h"

#include <ATen/ATen.h>

#include "core/error.h"
#include "nn/recompute.h"

namespace mmtune::backbones {

ClipShape read_clip_shape(const Config& config, bool text) {
  ClipShape shape{.width = config.integer("hidden_size", text ? 512 : 768),
                  .heads = config.integer("num_attention_heads", text ? 8 : 12),
                  .inner = config.integer("intermediate_size", text ? 2048 : 3072),
                  .layers = config.integer("num_hidden_layers", 12),
                  .epsilon = config.number("layer_norm_eps", 1e-5),
                  .activation = nn::activation_named(config.text("hidden_act", "quick_gelu"), config.where()),
                  .causal = text};
  if (shape.width % shape.heads != 0)
    throw Error({.what = "hidden_size is not a multiple of num_attention_heads", .where = config.where()});
  return shape;
}

namespace {

constexpr PreNormNames clip_names{.norm_before = "layer_norm1",
                                  .attention = "self_attn",
                                  .attention_output = "self_attn.out_proj",
                                  .attention_site = "self_attn",
                                  .norm_after = "layer_norm2",
                                  .up = "mlp.fc1",
                                  .down = "mlp.fc2",
                                  .feed_forward_site = "mlp",
                                  .maps = nn::proj_names};

}  // namespace

ClipEncoder::ClipEncoder(const ClipShape& shape, const nn::Weights& w) : shape_(shape) {
  const PreNormShape block{.width = shape.width,
                           .heads = shape.heads,
                           .inner = shape.inner,
                           .epsilon = shape.epsilon,
                           .activation = shape.activation,
                           .causal = shape.causal};
  for (std::int64_t layer = 0; layer < shape.layers; ++layer)
    blocks_.push_back(std::make_unique<PreNormBlock>(block, clip_names, w / "layers" / layer, layer, layer + 1 == shape.layers));
}

void ClipEncoder::operator()(nn::Tokens& tokens, const at::Tensor& only, const nn::Context& context) const {
  run_blocks(blocks_, tokens, only, context);
}

void ClipEncoder::first(std::int64_t count, nn::Tokens& tokens, const nn::Context& context) const {
  MMTUNE_ASSERT(count <= shape_.layers);
  for (std::int64_t i = 0; i < count; ++i)
    nn::run_block(tokens, context, [block = blocks_[static_cast<std::size_t>(i)].get()](nn::Tokens& inner, const nn::Context& with) {
      (*block)(inner, at::Tensor(), with);
    });
}

void ClipEncoder::list(nn::SiteTable& table) {
  for (auto& block : blocks_) block->list(table);
}

std::int64_t ClipEncoder::macs(std::int64_t tokens, bool one_row) const {
  return encoder_macs(shape_.layers, shape_.width, shape_.inner, tokens, one_row);
}

}  // namespace mmtune::backbones
