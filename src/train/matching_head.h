#pragma once
// The head of image-text matching that vision-language checkpoints bring beside their encoder: what ranking pairs begins with.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "io/checkpoint.h"

namespace mmtune::train {

struct MatchingHead {
  at::Tensor weight;  ///< [1, width] over the pooled row: what pairs are ranked by
  at::Tensor bias;    ///< [1]
  /// The same for the logit of "they belong together": the difference of itm_score's rows where the checkpoint has it, else what ranks.
  at::Tensor matching_weight, matching_bias;
};

/// `rank_output` (transformers' ViltForImageAndTextRetrieval and the released code), or the row of `itm_score.fc` that says "they belong
/// together", from which the released code makes its ranking. Nothing where the checkpoint has neither over `width` values.
std::optional<MatchingHead> matching_head_of(const io::Checkpoint& checkpoint, std::int64_t width);

}  // namespace mmtune::train
