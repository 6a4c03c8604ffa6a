#pragma once
// Information diffusion (APT, arXiv 2306.15706): what prompts would add to an attention's output, computed beside it. p prompts act as a
// small memory, with keys K [p, D] in the space of the attention's input X and values P [p, D] in that of its output a:
//
//     S = X Kᵀ,  R = activation(S),  y = (a + w ⊙ (R P)) · exp(s),  w a number a row, applied in prompt space: w ⊙ (R P) = (w ⊙ R) P
//
// One autograd node with its own backward pass: two products forward, four backward, and only X, w ⊙ R and w are kept (y too where s
// learns). No mask and no heads: every row is treated alike. Prompts may be those of all rows, or every sequence's own (MoPE's).

#include <ATen/core/Tensor.h>

#include "nn/context.h"
#include "nn/layout.h"

namespace mmtune::nn {

enum class DiffusionActivation { relu, softmax };

struct Diffusion {
  at::Tensor keys;     ///< [p, D], or [B, p, D]: those of each of `layout`'s sequences
  at::Tensor values;   ///< like the keys
  at::Tensor scale;    ///< s, [1]; undefined: 0
  at::Tensor weights;  ///< w, [N]; undefined: the largest of a row of R, through which nothing flows back, or 1 (see `weigh`)
  DiffusionActivation activation = DiffusionActivation::relu;
  bool weigh = true;               ///< false: w = 1
  const Layout* layout = nullptr;  ///< of the rows; needed where every sequence has prompts of its own
  /// `high`: products of rows with keys and values are split (nn/split_product.h), where prompts are those of all rows.
  MatmulPrecision precision = MatmulPrecision::highest;
};

/// `output` a [N, D], `input` X [N, D] → y [N, D]. `overwrite`: the caller reads `output` no more, and where nobody else does either, y
/// takes its memory.
at::Tensor diffuse(const at::Tensor& output, const at::Tensor& input, const Diffusion& diffusion, bool overwrite = false);

/// The same step by step, for explanations and tests; without gradients.
struct DiffusionParts {
  at::Tensor scores;   ///< S [N, p]
  at::Tensor fired;    ///< R [N, p]
  at::Tensor weights;  ///< w [N, 1]
  at::Tensor added;    ///< R P [N, D], without w
};
DiffusionParts diffusion_parts(const at::Tensor& input, const Diffusion& diffusion);

}  // namespace mmtune::nn
