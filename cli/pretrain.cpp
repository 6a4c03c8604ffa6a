// mmtune pretrain RECIPE.toml [key=value …]: trains a small vision tower from nothing.

#include "train/pretrain.h"

#include <filesystem>
#include <memory>

#include "arguments.h"
#include "commands.h"
#include "core/log.h"
#include "core/recipe.h"

namespace mmtune::cli {

namespace {

struct Options {
  std::string recipe;
  std::vector<std::string> assignments;
  std::string out;
  bool resume = false;
};

int run(const Options& options, const Session& session) {
  auto recipe = read_recipe<train::PretrainRecipe>(options.recipe, options.assignments);
  if (session.threads > 0) recipe.train.threads = session.threads;
  const std::filesystem::path out = options.out.empty() ? std::filesystem::path("runs") / std::filesystem::path(options.recipe).stem()
                                                        : std::filesystem::path(options.out);
  const train::PretrainOutcome outcome = train::pretrain(recipe, {.out = out, .resume = options.resume});
  using End = train::PretrainOutcome::End;
  if (outcome.end == End::already_finished) {
    log_info(out.string() + " is finished already");
    return 0;
  }
  if (outcome.end == End::interrupted) {
    log_info("interrupted after step " + std::to_string(outcome.steps) + "; the state is saved. Go on with the same command and --resume");
    return 128 + outcome.signal;
  }
  log_info("trained " + std::to_string(outcome.steps) + " steps; the tower is in " + (out / "model").string());
  return 0;
}

}  // namespace

Command pretrain_command() {
  return {.name = "pretrain",
          .summary = "train one of the small bundled backbones from nothing",
          .example =
              "mmtune pretrain recipes/pretrain_vit.toml --out runs/tower\n"
              "mmtune pretrain recipes/pretrain_vit.toml train.steps=100 --out runs/short\n"
              "mmtune pretrain recipes/pretrain_vit.toml --out runs/tower --resume",
          .declare = [](Arguments& arguments) -> Action {
            const auto options = std::make_shared<Options>();
            arguments.positional("RECIPE", &options->recipe, {.help = "the recipe, a TOML file", .required = true});
            arguments.positional("KEY=VALUE", &options->assignments, {.help = "changes of the recipe: train.lr=1e-3", .required = false});
            arguments.option("-o,--out", &options->out,
                             {.help = "the run folder; runs/ and the recipe's name where it is not given", .value = "RUN"});
            arguments.flag("--resume", options->resume, "go on from the run's last checkpoint, or begin where there is none");
            return [options](const Session& session) { return run(*options, session); };
          },
          .epilogue = [] { return options_as_help(document_options<train::PretrainRecipe>()); },
          .engine = true};
}

}  // namespace mmtune::cli
