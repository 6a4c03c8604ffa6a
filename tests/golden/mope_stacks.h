#pragma once
// The MoPE cases that run whole encoders, and what they share with the others.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "experts/mope.h"
#include "official_names.h"

namespace mmtune::golden {

/// An input of the case as a leaf whose gradient is kept.
at::Tensor leaf_of(Case& golden, const std::string& name);

/// Compares what the router of a block saw and decided with PREFIX{pooled, q_self, q_cross, softmax_arg, scores, cv2, importance}.
void compare_routing(Case& golden, const std::string& prefix, const experts::MopeRouting& routing, const experts::MopeOptions& options);

/// The task's loss with the weighted importance; one expert alone adds nothing.
at::Tensor with_importance(const experts::Mope& mope, const at::Tensor& task);

void bert_stack(Case& golden);
void swin_stack(Case& golden);
void whole_classifier(Case& golden);

}  // namespace mmtune::golden
