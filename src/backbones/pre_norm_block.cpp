#include "backbones/pre_norm_block.h"

#include <ATen/ATen.h>

#include "nn/recompute.h"

namespace mmtune::backbones {

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

PreNormBlock::PreNormBlock(const PreNormShape& shape, const PreNormNames& names, const nn::Weights& w, std::int64_t layer, bool last)
    : activation_(shape.activation),
      norm_before_(w / names.norm_before, shape.width, shape.epsilon),
      self_attention_(w / names.attention, shape.width, shape.heads, layer, shape.qkv_bias, names.maps),
      attention_output_(w / names.attention_output, shape.width, shape.width, layer),
      norm_after_(w / names.norm_after, shape.width, shape.epsilon),
      up_(w / names.up, shape.width, shape.inner, layer),
      down_(w / names.down, shape.inner, shape.width, layer) {
  using Role = nn::SublayerSite::Role;
  attention_site_ = {.name = (w / names.attention_site).path(), .role = Role::self_attention, .width = shape.width, .layer = layer};
  feed_forward_site_ = {.name = (w / names.feed_forward_site).path(), .role = Role::feed_forward, .width = shape.width, .layer = layer};
  sequence_ = {.name = w.path(),
               .width = shape.width,
               .layer = layer,
               .prompt_position = shape.prompt_position,
               .last = last,
               .causal = shape.causal};
}

void PreNormBlock::operator()(nn::Tokens& tokens, const at::Tensor& only, const nn::Context& context) const {
  if (sequence_.hook) sequence_.hook->before_block(tokens, context);
  if (!only.defined()) {
    step(tokens, tokens.prompts_end && !sequence_.causal ? StepRows::without_prompts : StepRows::all, context);
    if (sequence_.hook) sequence_.hook->after_block(tokens, context);
    return;
  }
  const nn::Layout key_layout = tokens.layout;
  const at::Tensor all = norm_before_(tokens.rows), rows = nn::beside(rows_at(only, tokens), tokens.rows);
  const at::Tensor x = tokens.rows.index_select(0, rows), queries = all.index_select(0, rows);
  tokens = {x, nn::Layout::uniform(key_layout.batch(), 1)};
  finish(tokens, x, queries, self_attention_(queries, all, tokens.layout, key_layout, context, {.causal = sequence_.causal}), context);
}

void PreNormBlock::step(nn::Tokens& tokens, StepRows wanted, const nn::Context& context) const {
  const nn::Layout key_layout = tokens.layout;
  nn::Tokens normed = tokens;
  normed.rows = norm_before_(tokens.rows);
  const at::Tensor all = normed.rows;
  keep(normed, wanted);
  keep(tokens, wanted);
  finish(tokens, tokens.rows, normed.rows,
         self_attention_(normed.rows, all, tokens.layout, key_layout, context, {.causal = sequence_.causal}), context);
}

nn::KeyValueRows PreNormBlock::keys_values(const at::Tensor& rows, const nn::Context& context) const {
  const at::Tensor normed = norm_before_(rows);
  const std::vector<at::Tensor> qkv = self_attention_.project(normed, normed, context);
  return {qkv[1], qkv[2]};
}

void PreNormBlock::operator()(nn::Tokens& tokens, const nn::Context& context, const Attend& attend) const {
  if (sequence_.hook) sequence_.hook->before_block(tokens, context);
  const at::Tensor normed = norm_before_(tokens.rows);
  finish(tokens, tokens.rows, normed, attend(self_attention_, normed, tokens), context);
  if (sequence_.hook) sequence_.hook->after_block(tokens, context);
}

void PreNormBlock::finish(nn::Tokens& tokens, const at::Tensor& x, const at::Tensor& normed, const at::Tensor& attended,
                          const nn::Context& context) const {
  const at::Tensor middle = x + attention_site_(attention_output_(attended, context), normed, tokens.layout, context);
  const at::Tensor after = norm_after_(middle);
  const at::Tensor inner = nn::activate(up_(after, context), activation_);
  tokens.rows = middle + feed_forward_site_(down_(inner, context), after, tokens.layout, context);
}

void PreNormBlock::list(nn::SiteTable& table) {
  table.sequences.push_back(&sequence_);
  norm_before_.list(table);
  self_attention_.list(table);
  auto& project = table.keys_values.back()->project;
  project = [this, attention = std::move(project)](const at::Tensor& rows, const nn::Context& context) {
    return attention(norm_before_(rows), context);
  };
  attention_output_.list(table);
  norm_after_.list(table);
  up_.list(table);
  down_.list(table);
  table.sublayers.push_back(&attention_site_);
  table.sublayers.push_back(&feed_forward_site_);
}

void run_blocks(const std::vector<std::unique_ptr<PreNormBlock>>& blocks, nn::Tokens& tokens, const at::Tensor& only,
                const nn::Context& context) {
  for (const auto& block : blocks) {
    const at::Tensor rows = block == blocks.back() ? only : at::Tensor();
    nn::run_block(tokens, context, [&block = *block, rows](nn::Tokens& inner, const nn::Context& with) { block(inner, rows, with); });
  }
}

}  // namespace mmtune::backbones
