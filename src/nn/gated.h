#pragma once
// The product of an activated gate and a second map of the same input, between the maps of a gated feed-forward part (Shazeer 2020, arXiv
// 2002.05202): LLaMA's SwiGLU, T5 1.1's gated GELU.

#include "nn/layers.h"

namespace mmtune::nn {

/// activation(gate) · values, all [N, inner]. For the gradient only the two inputs are kept.
at::Tensor gated(const at::Tensor& gate, const at::Tensor& values, Activation activation);

}  // namespace mmtune::nn
