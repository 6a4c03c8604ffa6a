#pragma once
// What a forward pass knows beyond its tokens: one object per batch, handed down instead of globals or widened signatures.

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace mmtune::nn {

/// Which rows of the last block's output somebody reads. `first`: only the one that stands for a sequence (row 0, the class token; in
/// CLIP's text tower the end-of-text token); the last block then computes no other row's query, output projection or feed-forward. A
/// backbone that pools all its rows ignores it.
enum class ReadRows { all, first };

/// How products with a tower's large frozen matrices are computed; the names and their meaning are PyTorch's float32_matmul_precision.
/// Where the processor multiplies bfloat16 numbers, `high`: float32 numbers as sums of two of them (on matrix units only), `medium`:
/// rounded to them (nn/split_product.h); elsewhere both are as `highest`.
enum class MatmulPrecision { highest, high, medium };

struct Context {
  bool training = false;
  MatmulPrecision matmul_precision = MatmulPrecision::highest;
  ReadRows read = ReadRows::all;
  /// Gradient checkpointing: blocks keep nothing but their input, and are computed again in the backward pass (nn/recompute.h).
  bool recompute = false;
  /// The step's random numbers (dropout of experts, router noise). Unset: nothing random happens.
  std::optional<at::Generator> generator;
  /// The complementary modality's feature [B, D_y] of the conditioning towers, side by side where there are several.
  at::Tensor complementary;
  /// [B], or [B, towers], bool: which examples have that modality; undefined: all.
  at::Tensor complementary_there;
  /// More than 0: what learns gets, in the place of its gradient, the sum over this many examples of the squares of their gradients
  /// (nn/squared_gradients.h). Every matrix of rows then belongs to the examples in their order, with as many rows each.
  std::int64_t examples = 0;
  /// Then: every row of a linear map counts as an example of its own. Cheaper, and the same only where an example is one row.
  bool by_row = false;
};

/// Inverted dropout with the context's generator; the identity outside training and at rate 0 (no mask is drawn then).
at::Tensor dropout(const at::Tensor& x, double rate, const Context& context);

}  // namespace mmtune::nn
