#include "train/pretrain/young_blocks.h"

#include <ATen/ATen.h>

#include <cmath>
#include <utility>

#include "core/error.h"

namespace mmtune::train {

namespace {

/// [B, T, D] normed → [B, T, D] before the output projection. For 65 tokens two plain products are twice as fast, backward pass included,
/// as the kernel that never forms the matrix of scores.
at::Tensor attend(const at::Tensor& x, const TensorScope& w, std::int64_t heads, const at::Tensor& hidden, bool half) {
  const std::int64_t batch = x.size(0), length = x.size(1), width = x.size(2), head = width / heads;
  const TensorScope q = w / "query", k = w / "key", v = w / "value";
  const at::Tensor qkv = young_linear(x, at::cat({q("weight"), k("weight"), v("weight")}), at::cat({q("bias"), k("bias"), v("bias")}), half)
                             .view({batch, length, 3, heads, head})
                             .permute({2, 0, 3, 1, 4});
  at::Tensor scores = at::matmul(qkv[0] * (1.0 / std::sqrt(static_cast<double>(head))), qkv[1].transpose(-2, -1));
  if (hidden.defined()) scores = scores.masked_fill(hidden.unsqueeze(1).unsqueeze(1), -1e4);
  return at::matmul(scores.softmax(-1), qkv[2]).transpose(1, 2).reshape({batch, length, width});
}

/// The two factors [D, k], [k, D] of the nearest rank-k matrix to noise · N(0, 1/D) + diagonal · I.
std::pair<at::Tensor, at::Tensor> factors(const nn::Weights& fresh, std::int64_t width, std::int64_t rank, double noise, double diagonal) {
  const at::Tensor sum =
      fresh.tensor("noise", {width, width}) * (noise / std::sqrt(static_cast<double>(width))) + at::eye(width) * diagonal;
  const auto [u, s, v] = at::linalg_svd(sum, false);
  const at::Tensor root = s.slice(0, 0, rank).sqrt();
  return {u.slice(1, 0, rank) * root, root.unsqueeze(1) * v.slice(0, 0, rank)};
}

}  // namespace

const at::Tensor& TensorScope::operator()(const std::string& name) const {
  const std::string full = path_.empty() ? name : path_ + "." + name;
  for (const nn::TensorSlot& slot : table_.tensors)
    if (slot.name == full) return *slot.tensor;
  MMTUNE_ASSERT(false);
  return *table_.tensors.front().tensor;
}

at::Tensor young_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, bool half) {
  if (!half) return at::linear(x, weight, bias);
  return at::linear(x.to(at::kBFloat16), weight.to(at::kBFloat16), bias.to(at::kBFloat16));
}

at::Tensor young_linear(const at::Tensor& x, const TensorScope& module, bool half) {
  return young_linear(x, module("weight"), module("bias"), half);
}

at::Tensor young_norm(const at::Tensor& x, const TensorScope& w) {
  return at::layer_norm(x, {x.size(-1)}, w("weight"), w("bias"), young_epsilon);
}

at::Tensor young_block(const at::Tensor& x, const TensorScope& block, std::int64_t heads, const at::Tensor& hidden, bool half) {
  const at::Tensor context = attend(young_norm(x, block / "layernorm_before"), block / "attention" / "attention", heads, hidden, half);
  const at::Tensor seen = x + young_linear(context, block / "attention" / "output" / "dense", half);
  const at::Tensor inner = at::gelu(young_linear(young_norm(seen, block / "layernorm_after"), block / "intermediate" / "dense", half));
  return seen + young_linear(inner, block / "output" / "dense", half);
}

void begin_mimetic(const TensorScope& attention, std::int64_t width, std::int64_t heads, const nn::Weights& fresh) {
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

}  // namespace mmtune::train
