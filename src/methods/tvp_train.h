#pragma once
// Training of a visual prompt through frozen multimodal language models into a run folder.

#include "methods/tvp_recipe.h"
#include "train/train.h"

namespace mmtune::methods {

/// Trains as the recipe says; leaves recipe.toml, run.json, metrics.jsonl, checkpoints/ and expert/ (the prompt). The result depends on the
/// recipe, the data, the models, the machine and the number of threads alone: a resumed training ends with the same bytes as one that was
/// never stopped. Throws Error: bad data, a loss that is not finite (naming the examples), a folder that is in use, exists or cannot be
/// written, several processes (UsageError).
train::TrainOutcome train_prompt(TvpRecipe& recipe, const train::TrainOptions& options, train::Communicator& all);

}  // namespace mmtune::methods
