#pragma once
// The pieces of MoPE (Jiang, Liu, Chen: mixture of prompt experts, arXiv 2403.10568): mapper, router, mixture and the loss that balances
// the experts. All are functions of tensors; what belongs together over the blocks of a backbone is experts/mope.h.
//
// B examples, y [B, D_y] the complementary modality's feature, K experts of l prompt tokens each, C the width of a block.

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace mmtune::experts {

/// y → a hidden feature [B, D_m] → one token a stage. The norm is batch norm in inference mode, as in the released code: its statistics
/// never move, its factor and offset learn.
struct MopeMapper {
  enum class Kind {
    mlp,      ///< GELU(norm(y Wᵀ + b)), then GELU of a projection a stage
    plain,    ///< the same without the norm (the earlier variant)
    linear,   ///< only the projections: y is the hidden feature
    identity  ///< y itself is the token: widths must be equal
  };
  Kind kind = Kind::mlp;
  at::Tensor weight, bias;                        ///< [D_m, D_y], [D_m]
  at::Tensor norm_weight, norm_bias;              ///< [D_m]
  at::Tensor running_mean, running_var;           ///< [D_m], never trained
  at::Tensor projection_weight, projection_bias;  ///< [sum of the stages' widths, D_m]: all stages in one product
  std::vector<std::int64_t> widths;               ///< of the stages

  at::Tensor hidden(const at::Tensor& y) const;
  /// The stages' tokens before GELU, side by side [B, sum of widths]; undefined for `identity`.
  at::Tensor projected(const at::Tensor& hidden) const;
  /// One token a stage, [B, C_i].
  std::vector<at::Tensor> tokens(const at::Tensor& hidden) const;
};

/// Routing scores [B, K] from logits [B, K]: their softmax. `top_k` > 0 keeps the k largest of every row and lets them share all of the
/// weight; the others get exactly 0.
at::Tensor mope_scores(const at::Tensor& logits, std::int64_t top_k = 0);

/// Σ_k scores[b, k] · experts[k]: scores [B, K], experts [K, l, C] → [B, l, C], as one matrix product.
at::Tensor mope_mixture(const at::Tensor& scores, const at::Tensor& experts);

/// Squared coefficient of variation of the experts' shares: scores [..., B, K] → [...]; var is the unbiased one. 0 where K = 1.
at::Tensor mope_variation(const at::Tensor& scores);
/// The variation where it is above `threshold`, 0 (value and gradient) where it is not. No branch looks at a value.
at::Tensor mope_importance(const at::Tensor& scores, double threshold);

/// How undecided the router is: -Σ_k r log(r + 1e-7) of scores [..., K] → [...].
at::Tensor mope_entropy(const at::Tensor& scores);

/// Routing keys [d, K]: columns of length 1 at right angles where K <= d, else rows.
at::Tensor mope_keys(std::int64_t width, std::int64_t experts, at::Generator& generator);

}  // namespace mmtune::experts
