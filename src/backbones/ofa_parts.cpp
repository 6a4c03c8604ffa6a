#include "backbones/ofa_parts.h"

#include <ATen/ATen.h>

#include <cmath>

namespace mmtune::backbones {

namespace {

constexpr double epsilon = 1e-5;
/// Queries are scaled as if heads were twice as wide (attn_scale_factor 2).
const double query_scale = 1.0 / std::sqrt(2.0);

}  // namespace

at::Tensor ofa_token_buckets(std::int64_t buckets, std::int64_t positions) {
  const std::int64_t half = buckets / 2;
  // Distances beyond `half` up to this one share the other half of the buckets.
  constexpr float farthest = 1023.0F;
  at::Tensor table = at::empty({positions, positions}, at::kLong);
  auto* out = table.data_ptr<std::int64_t>();
  std::vector<std::int64_t> of(static_cast<std::size_t>(positions));
  for (std::int64_t distance = 0; distance < positions; ++distance) {
    const std::int64_t apart = distance < half ? half - 1 : distance;
    std::int64_t bucket = distance;
    if (apart > half) {
      const float share = std::log(static_cast<float>(apart) / static_cast<float>(half)) / std::log(farthest / static_cast<float>(half));
      bucket = static_cast<std::int64_t>(std::ceil(share * static_cast<float>(half - 1))) + half;
    }
    of[static_cast<std::size_t>(distance)] = bucket;
  }
  for (std::int64_t query = 0; query < positions; ++query)
    for (std::int64_t key = 0; key < positions; ++key) {
      const std::int64_t bucket = of[static_cast<std::size_t>(std::abs(query - key))];
      *out++ = (query < key ? -bucket : bucket) + buckets - 1;
    }
  return table;
}

at::Tensor ofa_image_buckets(std::int64_t side) {
  const std::int64_t line = 2 * side - 1, rows = line * line + 3, patches = side * side;
  at::Tensor table = at::empty({patches + 1, patches + 1}, at::kLong);
  auto* out = table.data_ptr<std::int64_t>();
  for (std::int64_t query = 0; query <= patches; ++query)
    for (std::int64_t key = 0; key <= patches; ++key) {
      if (query == 0 || key == 0) {
        *out++ = query == 0 && key == 0 ? rows - 1 : query == 0 ? rows - 3 : rows - 2;
        continue;
      }
      const std::int64_t down = (query - 1) / side - (key - 1) / side, across = (query - 1) % side - (key - 1) % side;
      *out++ = (down + side - 1) * line + across + side - 1;
    }
  return table;
}

OfaAttention::OfaAttention(const nn::Weights& w, const OfaLayerShape& shape, std::int64_t layer, bool cross)
    : name_(w.path()),
      heads_(shape.heads),
      output_(w / "out_proj", shape.width, shape.width, layer),
      head_scale_(w.tensor("c_attn", {shape.heads}, nn::Init::ones)) {
  if (!cross) {
    self_ = std::make_unique<nn::SelfAttention>(w, shape.width, shape.heads, layer, true, nn::proj_names);
    return;
  }
  query_ = std::make_unique<nn::Linear>(w / "q_proj", shape.width, shape.width, layer);
  key_ = std::make_unique<nn::Linear>(w / "k_proj", shape.width, shape.width, layer);
  value_ = std::make_unique<nn::Linear>(w / "v_proj", shape.width, shape.width, layer);
}

std::vector<at::Tensor> OfaAttention::source_maps(const at::Tensor& rows, const nn::Context& context) const {
  const nn::Linear* maps[] = {key_.get(), value_.get()};
  return nn::linear_group(rows, maps, context);
}

/// Every head's output by its factor, and the output map.
at::Tensor OfaAttention::finish(const at::Tensor& heads, const nn::Context& context) const {
  const at::Tensor scaled = heads.view({heads.size(0), heads_, -1}) * head_scale_.unsqueeze(1);
  return output_(scaled.view_as(heads), context);
}

at::Tensor OfaAttention::operator()(const at::Tensor& queries, const at::Tensor& rows, const nn::Layout& query_layout,
                                    const nn::Layout& key_layout, const at::Tensor& bias, bool causal, const nn::Context& context) const {
  const nn::AttentionOptions options{.causal = causal, .bias = bias};
  if (self_) {
    std::vector<at::Tensor> qkv = self_->project(queries, rows, context);
    qkv[0] = qkv[0] * query_scale;
    return finish(self_->attend(qkv, query_layout, key_layout, context, options), context);
  }
  const std::vector<at::Tensor> kv = source_maps(rows, context);
  return finish(nn::attention((*query_)(queries, context) * query_scale, kv[0], kv[1], heads_, query_layout, key_layout, options), context);
}

at::Tensor OfaAttention::behind(const at::Tensor& rows, std::int64_t lines, OfaPast& past, bool keep, const at::Tensor& bias, bool causal,
                                const nn::Context& context) const {
  std::vector<at::Tensor> qkv = self_->project(rows, rows, context);
  const std::int64_t width = rows.size(1), length = rows.size(0) / lines;
  qkv[0] = qkv[0] * query_scale;
  const auto joined = [&](const at::Tensor& before, const at::Tensor& now) {
    const at::Tensor own = now.view({lines, length, width});
    return before.defined() ? at::cat({before, own}, 1) : own;
  };
  const at::Tensor keys = joined(past.keys, qkv[1]), values = joined(past.values, qkv[2]);
  if (keep) past = {keys, values};
  const nn::Layout query_layout = nn::Layout::uniform(lines, length), key_layout = nn::Layout::uniform(lines, keys.size(1));
  return finish(self_->attend({qkv[0], keys.reshape({-1, width}), values.reshape({-1, width})}, query_layout, key_layout, context,
                              {.causal = causal, .bias = bias}),
                context);
}

OfaSourceKeys OfaAttention::source_keys(const at::Tensor& rows, std::int64_t batch, const nn::Context& context) const {
  const std::vector<at::Tensor> kv = source_maps(rows, context);
  const auto split = [&](const at::Tensor& x) { return x.view({batch, -1, heads_, x.size(1) / heads_}).transpose(1, 2).contiguous(); };
  return {split(kv[0]), split(kv[1])};
}

at::Tensor OfaAttention::ask(const at::Tensor& rows, const OfaSourceKeys& source, const OfaAsking& asking,
                             const nn::Context& context) const {
  const std::int64_t batch = source.keys.size(0), lines = asking.slot.size(0), width = rows.size(1), length = rows.size(0) / lines;
  at::Tensor queries = ((*query_)(rows, context) * query_scale).view({lines, length * width});
  const bool full = lines == batch * asking.most;
  if (!full) queries = at::zeros({batch * asking.most, length * width}, queries.options()).index_copy_(0, asking.slot, queries);
  const at::Tensor heads =
      at::scaled_dot_product_attention(queries.view({batch, asking.most * length, heads_, width / heads_}).transpose(1, 2), source.keys,
                                       source.values, asking.bias)
          .transpose(1, 2)
          .reshape({batch * asking.most, length * width});
  return finish((full ? heads : heads.index_select(0, asking.slot)).view({lines * length, width}), context);
}

void OfaAttention::list(nn::SiteTable& table) {
  if (self_) {
    self_->list(table);
  } else {
    for (const auto& map : {query_.get(), key_.get(), value_.get()}) map->list(table);
  }
  output_.list(table);
  table.tensors.push_back({name_ + ".c_attn", &head_scale_});
}

OfaLayer::OfaLayer(const nn::Weights& w, const OfaLayerShape& shape, std::int64_t layer, bool decoder)
    : decoder_(decoder),
      norm_before_(w / "self_attn_layer_norm", shape.width, epsilon),
      attention_norm_(w / (decoder ? shape.names.decoder_attention_norm : shape.names.encoder_attention_norm), shape.width, epsilon),
      attention_(w / "self_attn", shape, layer, false),
      feed_forward_norm_(w / "final_layer_norm", shape.width, epsilon),
      inner_norm_(w / shape.names.inner_norm, shape.inner, epsilon),
      up_(w / "fc1", shape.width, shape.inner, layer),
      down_(w / "fc2", shape.inner, shape.width, layer) {
  using Role = nn::SublayerSite::Role;
  attention_site_ = {.name = (w / "self_attn").path(), .role = Role::self_attention, .width = shape.width, .layer = layer};
  feed_forward_site_ = {.name = (w / "fc2").path(), .role = Role::feed_forward, .width = shape.width, .layer = layer};
  if (!decoder) return;
  cross_norm_before_ = std::make_unique<nn::LayerNorm>(w / shape.names.cross_norm_before, shape.width, epsilon);
  cross_norm_ = std::make_unique<nn::LayerNorm>(w / shape.names.cross_norm, shape.width, epsilon);
  cross_ = std::make_unique<OfaAttention>(w / shape.names.cross, shape, layer, true);
}

at::Tensor OfaLayer::joined(const at::Tensor& x, const at::Tensor& made, const nn::Layout& layout, const nn::Context& context) const {
  if (!context.training || drop_path_ == 0 || !context.generator) return x + made;
  const std::int64_t batch = layout.batch();
  const double kept = 1.0 - drop_path_;
  const at::Tensor factor =
      at::rand({batch, 1, 1}, *context.generator, made.options().requires_grad(false)).lt(kept).to(made.scalar_type()) / kept;
  return x + (made.view({batch, -1, made.size(1)}) * factor).view_as(made);
}

at::Tensor OfaLayer::operator()(const at::Tensor& x, const nn::Layout& layout, const at::Tensor& bias, const std::optional<Source>& source,
                                const nn::Context& context) const {
  const at::Tensor normed = norm_before_(x);
  const at::Tensor attended =
      nn::dropout(attention_norm_(attention_(normed, normed, layout, layout, bias, decoder_, context)), dropout_, context);
  at::Tensor y = joined(x, attention_site_(attended, normed, layout, context), layout, context);
  if (cross_) {
    const at::Tensor asked = cross_norm_before_->operator()(y);
    const at::Tensor answered = (*cross_norm_)((*cross_)(asked, *source->rows, layout, *source->layout, *source->bias, false, context));
    y = joined(y, nn::dropout(answered, dropout_, context), layout, context);
  }
  return feed_forward(y, layout, context);
}

at::Tensor OfaLayer::feed_forward(const at::Tensor& y, const nn::Layout& layout, const nn::Context& context) const {
  const at::Tensor entering = feed_forward_norm_(y);
  const at::Tensor inner = inner_norm_(at::gelu(up_(entering, context)));
  return joined(y, feed_forward_site_(nn::dropout(down_(inner, context), dropout_, context), entering, layout, context), layout, context);
}

at::Tensor OfaLayer::behind(const at::Tensor& x, const nn::Layout& layout, const Behind& read, const nn::Context& context) const {
  const at::Tensor normed = norm_before_(x);
  const at::Tensor attended =
      attention_norm_(attention_.behind(normed, layout.batch(), *read.past, read.keep, *read.bias, read.causal, context));
  at::Tensor y = x + attention_site_(attended, normed, layout, context);
  y = y + (*cross_norm_)(cross_->ask((*cross_norm_before_)(y), *read.source, *read.asking, context));
  return feed_forward(y, layout, context);
}

void OfaLayer::list(nn::SiteTable& table) {
  norm_before_.list(table);
  attention_.list(table);
  attention_norm_.list(table);
  if (cross_) {
    cross_norm_before_->list(table);
    cross_->list(table);
    cross_norm_->list(table);
  }
  feed_forward_norm_.list(table);
  up_.list(table);
  inner_norm_.list(table);
  down_.list(table);
  table.sublayers.push_back(&attention_site_);
  table.sublayers.push_back(&feed_forward_site_);
}

}  // namespace mmtune::backbones
