#include "backbones/post_norm_block.h"

#include <ATen/ATen.h>

#include "nn/recompute.h"

namespace mmtune::backbones {

PostNormBlock::PostNormBlock(const PostNormShape& shape, const PostNormNames& names, const nn::Weights& w, std::int64_t layer, bool last)
    : activation_(shape.activation),
      self_attention_(w / names.attention, shape.width, shape.heads, layer, true, names.maps),
      attention_output_(w / names.attention_output, shape.width, shape.width, layer),
      attention_norm_(w / names.attention_norm, shape.width, shape.epsilon),
      up_(w / names.up, shape.width, shape.inner, layer),
      down_(w / names.down, shape.inner, shape.width, layer),
      norm_(w / names.norm, shape.width, shape.epsilon) {
  using Role = nn::SublayerSite::Role;
  attention_site_ = {
      .name = (w / names.attention_site).path(), .role = Role::self_attention, .width = shape.width, .layer = layer, .normed = true};
  feed_forward_site_ = {
      .name = (w / names.feed_forward_site).path(), .role = Role::feed_forward, .width = shape.width, .layer = layer, .normed = true};
  sequence_ = {.name = w.path(), .width = shape.width, .layer = layer, .prompt_position = shape.prompt_position, .last = last};
}

void PostNormBlock::operator()(nn::Tokens& tokens, bool first_only, const nn::Context& context) const {
  if (sequence_.hook) sequence_.hook->before_block(tokens, context);
  if (!first_only) {
    step(tokens, tokens.prompts_end ? StepRows::without_prompts : StepRows::all, context);
    if (sequence_.hook) sequence_.hook->after_block(tokens, context);
    return;
  }
  const at::Tensor x = tokens.rows;
  const nn::Layout key_layout = tokens.layout;
  tokens = {nn::first_rows(x, key_layout), nn::Layout::uniform(key_layout.batch(), 1)};
  tokens.rows = feed_forward(attend(tokens.rows, x, tokens.layout, key_layout, context), tokens.layout, context);
}

void PostNormBlock::step(nn::Tokens& tokens, StepRows wanted, const nn::Context& context) const {
  const at::Tensor x = tokens.rows;
  const nn::Layout key_layout = tokens.layout;
  keep(tokens, wanted);
  tokens.rows = feed_forward(attend(tokens.rows, x, tokens.layout, key_layout, context), tokens.layout, context);
}

nn::KeyValueRows PostNormBlock::keys_values(const at::Tensor& rows, const nn::Context& context) const {
  const std::vector<at::Tensor> qkv = self_attention_.project(rows, rows, context);
  return {qkv[1], qkv[2]};
}

at::Tensor PostNormBlock::attend(const at::Tensor& x, const at::Tensor& all, const nn::Layout& query_layout, const nn::Layout& key_layout,
                                 const nn::Context& context) const {
  const at::Tensor out = self_attention_(x, all, query_layout, key_layout, context);
  const at::Tensor sum = attention_site_(attention_output_(out, context), x, query_layout, context) + x;
  return attention_site_.behind_norm(attention_norm_(sum), x, query_layout, context);
}

at::Tensor PostNormBlock::feed_forward(const at::Tensor& x, const nn::Layout& layout, const nn::Context& context) const {
  const at::Tensor inner = nn::activate(up_(x, context), activation_);
  return feed_forward_site_.behind_norm(norm_(feed_forward_site_(down_(inner, context), x, layout, context) + x), x, layout, context);
}

void PostNormBlock::list(nn::SiteTable& table) {
  table.sequences.push_back(&sequence_);
  self_attention_.list(table);
  attention_output_.list(table);
  attention_norm_.list(table);
  up_.list(table);
  down_.list(table);
  norm_.list(table);
  table.sublayers.push_back(&attention_site_);
  table.sublayers.push_back(&feed_forward_site_);
}

void run_blocks(const std::vector<std::unique_ptr<PostNormBlock>>& blocks, nn::Tokens& tokens, bool first_only,
                const nn::Context& context) {
  for (const auto& block : blocks) {
    const bool narrow = first_only && block == blocks.back();
    nn::run_block(tokens, context, [&block = *block, narrow](nn::Tokens& inner, const nn::Context& with) { block(inner, narrow, with); });
  }
}

}  // namespace mmtune::backbones
