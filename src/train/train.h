#pragma once
// The training of a recipe into a run folder.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "train/communicator.h"
#include "train/recipe.h"

namespace mmtune::train {

struct TrainOptions {
  std::filesystem::path out;
  bool resume = false;  ///< go on from the folder's last checkpoint, or begin where there is none
};

struct TrainOutcome {
  enum class End { finished, interrupted, already_finished };
  End end = End::finished;
  int signal = 0;  ///< that interrupted it
  std::int64_t steps = 0;
  std::string metric;  ///< that best was chosen by; empty without validation data
  std::optional<double> best;
};

/// The processes of `all` (under mpirun) share every batch: each computes the gradients of its examples, one sum of the flat gradient makes
/// the step that one process would have made with the whole batch, up to rounding (dropout aside, whose numbers differ). The leading
/// process writes the run; the others read its checkpoint from the same folder when resuming.
///
/// Trains, validates, checkpoints and saves as the recipe says. The result depends on the recipe, the data, the backbone, the machine and
/// the number of threads alone: a resumed training ends with the same bytes as one that was never stopped. Throws Error: bad data, a loss
/// or gradient that is not finite (naming the batch's examples), a folder that is in use, exists or cannot be written.
TrainOutcome train(Recipe& recipe, const TrainOptions& options, Communicator& all);

}  // namespace mmtune::train
