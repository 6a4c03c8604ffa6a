#include "backbones/co_attention.h"

#include <ATen/ATen.h>

namespace mmtune::backbones {

using Role = nn::SublayerSite::Role;

CoAttentionLayer::Attended::Attended(const CoAttentionShape& shape, const nn::Weights& w, std::int64_t layer, Role role)
    : attention(w / "self", shape.width, shape.heads, layer),
      output(w / "output" / "dense", shape.width, shape.width, layer),
      norm(w / "output" / "LayerNorm", shape.width, shape.epsilon),
      site{.name = (w / "output").path(), .role = role, .width = shape.width, .layer = layer, .normed = true} {}

at::Tensor CoAttentionLayer::Attended::operator()(const at::Tensor& x, const at::Tensor& rows, const nn::Layout& query_layout,
                                                  const nn::Layout& key_layout, const nn::Context& context) const {
  const at::Tensor attended = attention(x, rows, query_layout, key_layout, context);
  return site.behind_norm(norm(site(output(attended, context), x, query_layout, context) + x), x, query_layout, context);
}

void CoAttentionLayer::Attended::list(nn::SiteTable& table) {
  attention.list(table);
  output.list(table);
  norm.list(table);
  table.sublayers.push_back(&site);
}

CoAttentionLayer::CoAttentionLayer(const CoAttentionShape& shape, const nn::Weights& w, std::int64_t layer)
    : activation_(shape.activation),
      self_(shape, w / "attention", layer, Role::self_attention),
      cross_(shape, w / "crossattention", layer, Role::cross_attention),
      up_(w / "intermediate" / "dense", shape.width, shape.inner, layer),
      down_(w / "output" / "dense", shape.inner, shape.width, layer),
      norm_(w / "output" / "LayerNorm", shape.width, shape.epsilon),
      feed_forward_site_{.name = (w / "output").path(), .role = Role::feed_forward, .width = shape.width, .layer = layer, .normed = true},
      sequence_{.name = w.path(), .width = shape.width, .layer = layer, .prompt_position = 1, .last = layer + 1 == shape.layers} {}

void CoAttentionLayer::operator()(nn::Tokens& tokens, const OtherStream& other, bool first_only, const nn::Context& context) const {
  const at::Tensor all = tokens.rows;
  const nn::Layout own = tokens.layout;
  if (first_only) {
    tokens = {nn::first_rows(all, own), nn::Layout::uniform(own.batch(), 1)};
  } else if (tokens.prompts_end) {
    tokens.remove_prompts();
  }
  at::Tensor x = self_(tokens.rows, all, tokens.layout, own, context);
  x = cross_(x, other.rows, tokens.layout, other.layout, context);
  const at::Tensor inner = nn::activate(up_(x, context), activation_);
  const at::Tensor sum = feed_forward_site_(down_(inner, context), x, tokens.layout, context) + x;
  tokens.rows = feed_forward_site_.behind_norm(norm_(sum), x, tokens.layout, context);
}

void CoAttentionLayer::list(nn::SiteTable& table) {
  table.sequences.push_back(&sequence_);
  self_.list(table);
  cross_.list(table);
  up_.list(table);
  down_.list(table);
  norm_.list(table);
  table.sublayers.push_back(&feed_forward_site_);
}

std::int64_t CoAttentionLayer::macs(const CoAttentionShape& shape, std::int64_t own, std::int64_t wanted, std::int64_t others) {
  const std::int64_t square = shape.width * shape.width;
  const std::int64_t self = 2 * (own + wanted) * square + 2 * wanted * own * shape.width;
  const std::int64_t cross = 2 * (others + wanted) * square + 2 * wanted * others * shape.width;
  return self + cross + 2 * wanted * shape.width * shape.inner;
}

}  // namespace mmtune::backbones
