#pragma once
// Which examples a training step computes on, and their reading ahead of it.

#include <cstdint>
#include <vector>

#include "data/batching.h"
#include "data/prefetch.h"
#include "train/communicator.h"
#include "train/session.h"

namespace mmtune::train {

/// What one optimiser step computes on: train.accumulate batches, of this process' share.
using StepBatches = std::vector<Batch>;

/// The order of the training data. Throws UsageError: train.group_by names a tower that is not there.
data::BatchPlan plan_of(const Recipe& recipe, const Training& training, const Communicator& all);

/// Steps `first` up to `end`, read by data.workers threads. Everything that it is given must outlive it. What a step is made of depends on
/// its number alone, so that a resumed training sees the same.
data::Prefetcher<StepBatches> step_batches(const Recipe& recipe, const Training& training, const data::BatchPlan& plan,
                                           const Communicator& all, std::int64_t first, std::int64_t end);

}  // namespace mmtune::train
