#pragma once
// Rotary position embeddings (Su et al. 2021, arXiv 2104.09864) as LLaMA has them: number j of a head and number j + d/2 are a pair that
// is turned by position · frequency_j.

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace mmtune::nn {

/// Cosines and sines of the rows of a token matrix, each [N, d/2]; undefined: rows stay as they are.
struct Rotation {
  at::Tensor cosines, sines;
  bool defined() const { return cosines.defined(); }
};

/// base^(-2j/d), [d/2] float32.
at::Tensor rotary_frequencies(std::int64_t head_width, double base);
/// Of rows at `positions` [N] int64, on the device of `frequencies`.
Rotation rotation_of(const at::Tensor& positions, const at::Tensor& frequencies);
/// x [N, H·d], heads side by side, every head turned. Its derivative is the turn back; nothing of x is kept.
at::Tensor rotated(const at::Tensor& x, const Rotation& rotation);

}  // namespace mmtune::nn
