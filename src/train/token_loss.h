#pragma once
// Label-smoothed cross entropy over tokens, as OFA and π-Tuning train with it.

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace mmtune::train {

struct TokenLossOptions {
  double smoothing = 0.0;    ///< ε
  std::int64_t padding = 1;  ///< targets without a loss
  at::Tensor allowed;        ///< [N, V] bool: what a trie allows at each token; undefined: everything
  bool mask_softmax = true;  ///< where `allowed`: also leave the others out of the softmax (the released π-Tuning code does not)
  at::Tensor confidence;     ///< [N, 1]: log-probabilities are multiplied by it (an answer's confidence, VQA); undefined: 1
  double drop_worst = 0.0;   ///< share of the tokens with the largest losses that are left out
};

struct TokenLoss {
  at::Tensor loss;          ///< scalar, summed: (1 − ε − e)·nll + e·Σ_v −log p_v, e = ε / (V − 1)
  at::Tensor nll;           ///< scalar, summed, without smoothing
  std::int64_t tokens = 0;  ///< that have a loss
};

/// logits [N, V], targets [N] int64. With `allowed`, e = ε / (allowed − 1 + 1e-6) and the sum runs over what is allowed.
TokenLoss token_loss(const at::Tensor& logits, const at::Tensor& targets, const TokenLossOptions& options);

}  // namespace mmtune::train
