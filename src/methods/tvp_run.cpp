#include "methods/tvp_run.h"

#include "core/error.h"
#include "core/recipe.h"
#include "train/run_folder.h"

namespace mmtune::methods {

bool is_tvp_run(const std::filesystem::path& path) {
  std::error_code ignored;
  const std::filesystem::path recipe = path / "recipe.toml";
  return std::filesystem::is_regular_file(recipe, ignored) && is_tvp_recipe(load_recipe(recipe));
}

TvpRun open_tvp_run(const std::filesystem::path& path, std::span<const std::string> assignments) {
  const train::RunFolder folder = train::RunFolder::open(path);
  TvpRecipe recipe = read_tvp_recipe(folder.recipe(), assignments);
  Json record = folder.read_record();
  if (!std::filesystem::exists(folder.experts() / "adapter_config.json"))
    throw Error({.what = "the run holds no prompt yet",
                 .where = path.string(),
                 .expected = "a finished training",
                 .hint = "go on with: mmtune train " + folder.recipe().string() + " --out " + path.string() + " --resume"});
  TvpRun run{std::move(recipe), std::move(record), experts::load_prompt(folder.experts()), {}};
  try {
    run.classes = run.record.at("classes").get<std::vector<std::string>>();
  } catch (const Json::exception&) {
    throw Error({.what = "the run's record is damaged (classes)", .where = folder.record().string()});
  }
  return run;
}

}  // namespace mmtune::methods
