#pragma once
// Training batches of tasks that show the model something else than the examples themselves.

#include <cstdint>
#include <span>

#include "train/batch_reader.h"
#include "train/task.h"

namespace mmtune::train {

/// The batch of `examples`, or of what the task wants to be shown instead of them (Task::arranged): its rows are then those, its examples
/// these. An example of which a part cannot be read is left out whole.
Batch read_arranged(const BatchReader& reader, const Task& task, const data::Dataset& dataset, std::span<const std::int64_t> examples,
                    std::uint64_t seed);

}  // namespace mmtune::train
