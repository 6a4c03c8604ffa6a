#include "backbones/clip_encoder.h"

#include <ATen/ATen.h>

#include "core/error.h"

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

ClipBlock::ClipBlock(const ClipShape& shape, const nn::Weights& w, std::int64_t layer)
    : shape_(shape),
      norm_before_(w / "layer_norm1", shape.width, shape.epsilon),
      self_attention_(w / "self_attn", shape.width, shape.heads, layer, true, nn::proj_names),
      attention_output_(w / "self_attn" / "out_proj", shape.width, shape.width, layer),
      norm_after_(w / "layer_norm2", shape.width, shape.epsilon),
      intermediate_(w / "mlp" / "fc1", shape.width, shape.inner, layer),
      output_(w / "mlp" / "fc2", shape.inner, shape.width, layer) {
  using Role = nn::SublayerSite::Role;
  attention_site_ = {.name = (w / "self_attn").path(), .role = Role::self_attention, .width = shape.width, .layer = layer};
  feed_forward_site_ = {.name = (w / "mlp").path(), .role = Role::feed_forward, .width = shape.width, .layer = layer};
  sequence_ = {.name = w.path(), .width = shape.width, .layer = layer, .prompt_position = 1, .last = layer + 1 == shape.layers};
}

namespace {

/// The numbers of the rows that stand at `positions` [B] of their sequences, prompts not counted.
at::Tensor rows_at(const at::Tensor& positions, const nn::Tokens& tokens) {
  at::Tensor rows = positions.clone();
  auto* row = rows.data_ptr<std::int64_t>();
  std::int64_t offset = 0;
  for (const std::int64_t length : tokens.layout.lengths()) {
    if (*row >= tokens.prompt_at) *row += tokens.prompt_count;
    *row++ += offset;
    offset += length;
  }
  return rows;
}

}  // namespace

void ClipBlock::operator()(nn::Tokens& tokens, const at::Tensor& only, const nn::Context& context) const {
  if (sequence_.hook) sequence_.hook->before_block(tokens, context);
  at::Tensor x = tokens.rows;
  const nn::Layout key_layout = tokens.layout;
  const at::Tensor all = norm_before_(x);
  at::Tensor queries = all;
  if (only.defined()) {
    const at::Tensor rows = rows_at(only, tokens);
    x = x.index_select(0, rows);
    queries = all.index_select(0, rows);
    tokens = {x, nn::Layout::uniform(key_layout.batch(), 1)};
  }
  const at::Tensor attended = self_attention_(queries, all, tokens.layout, key_layout, context, {.causal = shape_.causal});
  x = x + attention_site_(attention_output_(attended, context), queries, tokens.layout, context);
  const at::Tensor normed = norm_after_(x);
  const at::Tensor inner = nn::activate(intermediate_(normed, context), shape_.activation);
  tokens.rows = x + feed_forward_site_(output_(inner, context), normed, tokens.layout, context);
  if (sequence_.hook && !only.defined()) sequence_.hook->after_block(tokens, context);
}

void ClipBlock::list(nn::SiteTable& table) {
  table.sequences.push_back(&sequence_);
  norm_before_.list(table);
  self_attention_.list(table);
  attention_output_.list(table);
  norm_after_.list(table);
  intermediate_.list(table);
  output_.list(table);
  table.sublayers.push_back(&attention_site_);
  table.sublayers.push_back(&feed_forward_site_);
}

ClipEncoder::ClipEncoder(const ClipShape& shape, const nn::Weights& w) : shape_(shape) {
  for (std::int64_t layer = 0; layer < shape.layers; ++layer)
    blocks_.push_back(std::make_unique<ClipBlock>(shape, w / "layers" / layer, layer));
}

void ClipEncoder::operator()(nn::Tokens& tokens, const at::Tensor& only, const nn::Context& context) const {
  for (const auto& block : blocks_) (*block)(tokens, block == blocks_.back() ? only : at::Tensor(), context);
}

void ClipEncoder::list(nn::SiteTable& table) {
  for (auto& block : blocks_) block->list(table);
}

std::int64_t ClipEncoder::macs(std::int64_t tokens, bool one_row) const {
  const auto block = [this, tokens](std::int64_t queries) {
    return 2 * (tokens + queries) * shape_.width * shape_.width + 2 * queries * tokens * shape_.width +
           2 * queries * shape_.width * shape_.inner;
  };
  return (shape_.layers - 1) * block(tokens) + block(one_row ? 1 : tokens);
}

}  // namespace mmtune::backbones
