#include "experts/mope_parts.h"

#include <ATen/ATen.h>

#include <cmath>
#include <tuple>

#include "core/error.h"

namespace mmtune::experts {

namespace {

constexpr double norm_epsilon = 1e-5;

}  // namespace

at::Tensor MopeMapper::hidden(const at::Tensor& y) const {
  if (kind == Kind::linear || kind == Kind::identity) return y;
  at::Tensor h = at::linear(y, weight, bias);
  if (kind == Kind::mlp) h = (h - running_mean) * (norm_weight * at::rsqrt(running_var + norm_epsilon)) + norm_bias;
  return at::gelu(h);
}

at::Tensor MopeMapper::projected(const at::Tensor& hidden) const {
  if (kind == Kind::identity) return {};
  return at::linear(hidden, projection_weight, projection_bias);
}

std::vector<at::Tensor> MopeMapper::tokens(const at::Tensor& hidden) const {
  if (kind == Kind::identity) return std::vector<at::Tensor>(widths.size(), hidden);
  return at::gelu(projected(hidden)).split_with_sizes(widths, 1);
}

at::Tensor mope_scores(const at::Tensor& logits, std::int64_t top_k) {
  if (top_k <= 0 || top_k >= logits.size(-1)) return logits.softmax(-1);
  const at::Tensor chosen = std::get<1>(logits.detach().topk(top_k, -1));
  const at::Tensor kept = at::zeros_like(logits, at::kBool).scatter_(-1, chosen, true);
  return logits.masked_fill(kept.logical_not(), -INFINITY).softmax(-1);
}

at::Tensor mope_mixture(const at::Tensor& scores, const at::Tensor& experts) {
  const std::int64_t count = experts.size(0), length = experts.size(1), width = experts.size(2);
  MMTUNE_ASSERT(scores.dim() == 2 && scores.size(1) == count);
  return scores.mm(experts.reshape({count, length * width})).view({scores.size(0), length, width});
}

at::Tensor mope_variation(const at::Tensor& scores) {
  const at::Tensor shares = scores.sum(-2);
  if (shares.size(-1) < 2) return shares.sum(-1) * 0;
  return shares.var(at::IntArrayRef{-1}, true, false) / shares.mean(-1).square();
}

at::Tensor mope_importance(const at::Tensor& scores, double threshold) {
  const at::Tensor variation = mope_variation(scores);
  return at::where(variation > threshold, variation, at::zeros_like(variation));
}

at::Tensor mope_entropy(const at::Tensor& scores) {
  constexpr double tiny = 1e-7;
  return -(scores * (scores + tiny).log()).sum(-1);
}

at::Tensor mope_keys(std::int64_t width, std::int64_t experts, at::Generator& generator) {
  const at::Tensor drawn = at::empty({std::max(width, experts), std::min(width, experts)}).normal_(0.0, 1.0, generator);
  const auto [q, r] = at::linalg_qr(drawn);
  // Signs by R's diagonal make the distribution uniform over all such matrices.
  const at::Tensor keys = q * r.diagonal().sign();
  return (width >= experts ? keys : keys.t()).contiguous();
}

}  // namespace mmtune::experts
