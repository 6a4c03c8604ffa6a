#pragma once
// A run folder that the training of a visual prompt left, opened for questions.

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/json.h"
#include "experts/visual_prompt.h"
#include "methods/tvp_recipe.h"

namespace mmtune::methods {

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
