#pragma once
// Training of a visual prompt through frozen multimodal language models into a run folder, and such a run opened for questions.

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "experts/visual_prompt.h"
#include "methods/tvp_recipe.h"
#include "train/train.h"

namespace mmtune::methods {

/// Trains as the recipe says; leaves recipe.toml, run.json, metrics.jsonl, checkpoints/ and expert/ (the prompt). The result depends on the
/// recipe, the data, the models, the machine and the number of threads alone: a resumed training ends with the same bytes as one that was
/// never stopped. Throws Error: bad data, a loss that is not finite (naming the examples), a folder that is in use, exists or cannot be
/// written, several processes (UsageError).
train::TrainOutcome train_prompt(TvpRecipe& recipe, const train::TrainOptions& options, train::Communicator& all);

/// Whether `path` is the run folder of a visual prompt.
bool is_tvp_run(const std::filesystem::path& path);

struct TvpRun {
  TvpRecipe recipe;
  Json record;
  experts::StoredPrompt prompt;
  std::vector<std::string> classes;
};
/// Throws Error where the training left no prompt yet. `assignments` change the recipe.
TvpRun open_tvp_run(const std::filesystem::path& path, std::span<const std::string> assignments = {});

}  // namespace mmtune::methods
