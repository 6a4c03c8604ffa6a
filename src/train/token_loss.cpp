#include "train/token_loss.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

namespace mmtune::train {

TokenLoss token_loss(const at::Tensor& logits, const at::Tensor& targets, const TokenLossOptions& options) {
  at::Tensor scores = logits;
  if (options.allowed.defined() && options.mask_softmax)
    scores = scores.masked_fill(options.allowed.logical_not(), -std::numeric_limits<double>::infinity());
  at::Tensor logs = at::log_softmax(scores, 1);
  if (options.confidence.defined()) logs = logs * options.confidence;
  const at::Tensor counted = targets.ne(options.padding);
  const at::Tensor nll = -logs.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1);
  at::Tensor smooth, share;
  if (options.allowed.defined()) {
    smooth = -logs.masked_fill(options.allowed.logical_not(), 0).sum(1);
    share = options.smoothing / (options.allowed.sum(1).to(logs.scalar_type()) - 1 + 1e-6);
  } else {
    smooth = -logs.sum(1);
    share = at::full_like(smooth, options.smoothing / static_cast<double>(logits.size(1) - 1));
  }
  at::Tensor losses = ((1.0 - options.smoothing - share) * nll + share * smooth).masked_select(counted);
  at::Tensor plain = nll.masked_select(counted);
  std::int64_t tokens = losses.size(0);
  if (options.drop_worst > 0) {
    tokens = static_cast<std::int64_t>(static_cast<double>(tokens) * (1.0 - options.drop_worst));
    const at::Tensor kept = std::get<1>(losses.detach().topk(tokens, 0, false));
    losses = losses.index_select(0, kept);
    plain = plain.index_select(0, kept);
  }
  return {.loss = losses.sum(), .nll = plain.sum(), .tokens = tokens};
}

}  // namespace mmtune::train
