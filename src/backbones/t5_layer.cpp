// The layers of T5 and its buckets of distances.

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "backbones/t5.h"
#include "nn/gated.h"

namespace mmtune::backbones {

std::int64_t t5_bucket(std::int64_t distance, bool both_sides, std::int64_t buckets, std::int64_t farthest) {
  std::int64_t first = 0;
  if (both_sides) {
    buckets /= 2;
    if (distance > 0) first = buckets;
    distance = std::abs(distance);
  } else {
    distance = std::max<std::int64_t>(-distance, 0);
  }
  const std::int64_t exact = buckets / 2;
  if (distance < exact) return first + distance;
  // In float32, as the models that are compared with compute it: a boundary lies where it lies for them.
  const float share = std::log(static_cast<float>(distance) / static_cast<float>(exact)) /
                      static_cast<float>(std::log(static_cast<double>(farthest) / static_cast<double>(exact)));
  const auto far = static_cast<std::int64_t>(share * static_cast<float>(buckets - exact));
  return first + std::min(exact + far, buckets - 1);
}

namespace {

LanguageAttentionShape attention_shape(const T5Shape& shape, bool causal) {
  return {.width = shape.width,
          .heads = shape.heads,
          .key_heads = shape.heads,
          .head_width = shape.head_width,
          .query_scale = std::sqrt(static_cast<double>(shape.head_width)),  // T5 does not scale its scores
          .causal = causal};
}

constexpr LanguageAttentionNames names{"q", "k", "v", "o"};

}  // namespace

T5Layer::T5Layer(const nn::Weights& given, const T5Shape& shape, std::int64_t layer, bool decoder)
    : shape_(shape),
      norm_(given / "layer" / 0 / "layer_norm", shape.width, shape.epsilon),
      attention_(given / "layer" / 0 / "SelfAttention", attention_shape(shape, decoder), names, layer),
      feed_forward_norm_(given / "layer" / (decoder ? 2 : 1) / "layer_norm", shape.width, shape.epsilon),
      up_(given / "layer" / (decoder ? 2 : 1) / "DenseReluDense" / (shape.gated ? "wi_1" : "wi"), shape.width, shape.inner, layer, false),
      down_(given / "layer" / (decoder ? 2 : 1) / "DenseReluDense" / "wo", shape.inner, shape.width, layer, false) {
  const nn::Weights w = given / "layer";
  if (shape.gated)
    gate_ = std::make_unique<nn::Linear>(w / (decoder ? 2 : 1) / "DenseReluDense" / "wi_0", shape.width, shape.inner, layer, false);
  using Role = nn::SublayerSite::Role;
  const auto site = [&](std::int64_t part, std::string_view name, Role role) {
    return nn::SublayerSite{.name = (w / part / name).path(), .role = role, .width = shape.width, .layer = layer};
  };
  attention_site_ = site(0, "SelfAttention", Role::self_attention);
  feed_forward_site_ = site(decoder ? 2 : 1, "DenseReluDense", Role::feed_forward);
  if (!decoder) return;
  cross_norm_ = std::make_unique<nn::RmsNorm>(w / 1 / "layer_norm", shape.width, shape.epsilon);
  cross_ = std::make_unique<LanguageAttention>(w / 1 / "EncDecAttention", attention_shape(shape, false), names, layer, true);
  cross_site_ = site(1, "EncDecAttention", Role::cross_attention);
}

std::vector<at::Tensor> T5Layer::cross_keys_values(const at::Tensor& rows, const nn::Context& context) const {
  return cross_->keys_values(rows, context);
}

void T5Layer::operator()(nn::Tokens& tokens, const LanguageAttention::Pass& pass, const Source* source, const nn::Context& context) const {
  const nn::Layout& layout = tokens.layout;
  const at::Tensor normed = norm_(tokens.rows);
  at::Tensor x = tokens.rows + attention_site_(attention_(normed, layout, pass, context), normed, layout, context);
  if (cross_) {
    const at::Tensor asking = (*cross_norm_)(x);
    const at::Tensor answered = cross_->cross(asking, source->keys_values, layout, *source->layout, context);
    x = x + cross_site_(answered, asking, layout, context);
  }
  const at::Tensor entering = feed_forward_norm_(x);
  at::Tensor inner;
  if (gate_) {
    const nn::Linear* const maps[] = {gate_.get(), &up_};
    const std::vector<at::Tensor> both = nn::linear_group(entering, maps, context);
    inner = nn::gated(both[0], both[1], shape_.activation);
  } else {
    inner = nn::activate(up_(entering, context), shape_.activation);
  }
  tokens.rows = x + feed_forward_site_(down_(inner, context), entering, layout, context);
}

void T5Layer::list(nn::SiteTable& table) {
  norm_.list(table);
  attention_.list(table);
  auto& project = table.keys_values.back()->project;
  project = [this, attention = std::move(project)](const at::Tensor& rows, const nn::Context& context) {
    return attention(norm_(rows), context);
  };
  if (cross_) {
    cross_norm_->list(table);
    cross_->list(table);
  }
  feed_forward_norm_.list(table);
  if (gate_) gate_->list(table);
  up_.list(table);
  down_.list(table);
  table.sublayers.push_back(&attention_site_);
  if (cross_) table.sublayers.push_back(&cross_site_);
  table.sublayers.push_back(&feed_forward_site_);
}

}  // namespace mmtune::backbones
