#pragma once
// The training of a recipe into a run folder.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

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

/// Trains, validates, checkpoints and saves as the recipe says. The result depends on the recipe, the data, the backbone, the machine and
/// the number of threads alone: a resumed training ends with the same bytes as one that was never stopped. Throws Error: bad data, a loss
/// or gradient that is not finite (naming the batch's examples), a folder that is in use, exists or cannot be written.
TrainOutcome train(Recipe& recipe, const TrainOptions& options);

}  // namespace mmtune::train
