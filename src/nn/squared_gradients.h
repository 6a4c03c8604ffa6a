#pragma once
// Squared gradients of single examples from one ordinary backward pass over many: where Context::examples is set, the tensors that learn
// get Σ_e (∂L_e/∂W)² in the place of Σ_e ∂L_e/∂W. No loop over examples, and of a linear map no more than one example's gradient a few
// times over in memory: with its input X and output gradient Δ, an example's gradient is Δ_eᵀ X_e. A tensor that learns must be used once
// in a pass, through one of these functions; all of them are the plain operation where context.examples is 0.
//
// B examples; N rows, N / B an example, in the examples' order. One row more than that is a row of zeros that belongs to none (Swin's
// windows beyond the picture).

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "nn/context.h"

namespace mmtune::nn {

/// x Wᵀ + b, x [..., in]; `bias` may be undefined. Where the weight does not learn, nothing is kept for it.
at::Tensor learned_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const Context& context);
/// LayerNorm of rows [N, D], weight and bias [D].
at::Tensor learned_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double epsilon, const Context& context);
/// The tensor once an example, [B, …]; the tensor itself where plain gradients are wanted.
at::Tensor spread(const at::Tensor& tensor, const Context& context);
/// A tensor [D] or [1, D] once a row, [rows, D]; the tensor itself where plain gradients are wanted.
at::Tensor spread_rows(const at::Tensor& tensor, std::int64_t rows, const Context& context);

/// Σ_e (left_eᵀ right_e)²: left [N, m], right [N, n] → [m, n]. `by_row`: every row is an example.
at::Tensor squared_products(const at::Tensor& left, const at::Tensor& right, std::int64_t examples, bool by_row);

}  // namespace mmtune::nn
