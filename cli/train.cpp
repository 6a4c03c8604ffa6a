// mmtune train RECIPE.toml [key=value …]: trains an expert and leaves a run folder.

#include "train/train.h"

#include <filesystem>
#include <memory>

#include "arguments.h"
#include "commands.h"
#include "core/log.h"
#include "core/recipe.h"
#include "report/table.h"

namespace mmtune::cli {

namespace {

struct Options {
  std::string recipe;
  std::vector<std::string> assignments;
  std::string out;
  bool resume = false;
};

std::string quoted(const std::filesystem::path& path) {
  const std::string text = path.string();
  return text.find_first_of(" '\"$&;()<>|*?\\") == std::string::npos ? text : "\"" + text + "\"";
}

int run(const Options& options, const Session& session) {
  train::Recipe recipe = train::read_recipe_file(options.recipe, options.assignments);
  if (session.threads > 0) recipe.train.threads = session.threads;
  const std::filesystem::path recipe_file(options.recipe);
  const std::filesystem::path out =
      options.out.empty() ? std::filesystem::path("runs") / recipe_file.stem() : std::filesystem::path(options.out);

  const train::TrainOutcome outcome = train::train(recipe, {.out = out, .resume = options.resume});
  using End = train::TrainOutcome::End;
  if (outcome.end == End::already_finished) {
    log_info(out.string() + " is finished already");
    return 0;
  }
  if (outcome.end == End::interrupted) {
    log_info("interrupted after step " + std::to_string(outcome.steps) + "; the state is saved. Go on with:");
    log_info("  mmtune train " + quoted(out / "recipe.toml") + " --out " + quoted(out) + " --resume");
    return 128 + outcome.signal;
  }
  std::string line = "trained " + std::to_string(outcome.steps) + " steps";
  if (outcome.best) line += ", best valid " + outcome.metric + " " + report::fixed(*outcome.best);
  log_info(line + "; the run is in " + out.string());
  log_info("evaluate it with: mmtune eval " + quoted(out) + " --data MANIFEST");
  return 0;
}

}  // namespace

Command train_command() {
  return {.name = "train",
          .summary = "train an expert; leaves a run folder",
          .example =
              "mmtune train recipes/banking77.toml --out runs/banking77\n"
              "mmtune train recipes/banking77.toml train.lr=1e-3 expert.rank=4 --out runs/rank4\n"
              "mmtune train runs/rank4/recipe.toml --out runs/rank4 --resume",
          .declare = [](Arguments& arguments) -> Action {
            const auto options = std::make_shared<Options>();
            arguments.positional("RECIPE", &options->recipe, {.help = "the recipe, a TOML file", .required = true});
            arguments.positional("KEY=VALUE", &options->assignments, {.help = "changes of the recipe: train.lr=1e-3", .required = false});
            arguments.option("-o,--out", &options->out,
                             {.help = "the run folder; runs/ and the recipe's name where it is not given", .value = "RUN"});
            arguments.flag("--resume", options->resume, "go on from the run's last checkpoint, or begin where there is none");
            return [options](const Session& session) { return run(*options, session); };
          },
          .epilogue = [] { return "The keys of a recipe:\n" + train::describe_recipe(); },
          .engine = true};
}

}  // namespace mmtune::cli
