#pragma once
// Pre-norm transformer blocks that are trained whole, over a backbone's own tensors: written for training all weights of a small model at
// once, with matrix products in bfloat16 where the CPU has them. Norms, sums and the residual stream stay float32.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "nn/sites.h"
#include "nn/weights.h"

namespace mmtune::train {

inline constexpr double young_epsilon = 1e-6;

/// The tensors of one module by their names.
class TensorScope {
 public:
  TensorScope(const nn::SiteTable& table, std::string path) : table_(table), path_(std::move(path)) {}
  TensorScope operator/(const std::string& name) const { return {table_, path_.empty() ? name : path_ + "." + name}; }
  /// The tensor `name` of the module, which must be there.
  const at::Tensor& operator()(const std::string& name) const;

 private:
  const nn::SiteTable& table_;
  std::string path_;
};

/// x Wᵀ + b; `half`: of bfloat16 copies, with a bfloat16 result.
at::Tensor young_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, bool half);
at::Tensor young_linear(const at::Tensor& x, const TensorScope& module, bool half);
at::Tensor young_norm(const at::Tensor& x, const TensorScope& module);

/// A block of a ViT or ViLT (transformers' names) over rows [B, T, D] float32. `hidden` [B, T] bool, where defined: keys that no row sees.
at::Tensor young_block(const at::Tensor& x, const TensorScope& block, std::int64_t heads, const at::Tensor& hidden, bool half);

/// Attention begins by looking at like tokens and taking a little of them away, as it does in large trained transformers (Trockman and
/// Kolter, "Mimetic initialization of self-attention layers", arXiv 2305.09828): small data sets train much faster from there. `fresh`
/// draws with deviation 1.
void begin_mimetic(const TensorScope& attention, std::int64_t width, std::int64_t heads, const nn::Weights& fresh);

}  // namespace mmtune::train
