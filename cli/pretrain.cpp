// mmtune pretrain RECIPE.toml [key=value …]: trains a small backbone from nothing.

#include "train/pretrain/pretrain.h"

#include <filesystem>
#include <memory>

#include "arguments.h"
#include "commands.h"
#include "core/log.h"
#include "core/recipe.h"
#include "train/pretrain/answers.h"
#include "train/pretrain/pairs.h"

namespace mmtune::cli {

namespace {

struct Options {
  std::string recipe;
  std::vector<std::string> assignments;
  std::string out;
  bool resume = false;
};

/// As the recipe or the command line has it; anything that is no text is left to the recipe's own checks.
std::string task_of(const TomlValue& root) {
  const TomlValue* task = root.find("task");
  if (task == nullptr) return {};
  std::string text = task->typed ? *task->typed : task->text;
  if (text.size() > 1 && text.front() == '"' && text.back() == '"') text = text.substr(1, text.size() - 2);
  return text;
}

/// Reads the recipe as the one of its task and runs it.
template <class Recipe>
train::PretrainOutcome run_task(const TomlValue& root, const Options& options, const Session& session, const std::filesystem::path& out,
                                train::PretrainOutcome (*run)(Recipe&, const train::PretrainOptions&)) {
  auto recipe = read_options<Recipe>(root);
  if (session.threads > 0) recipe.train.threads = session.threads;
  return run(recipe, {.out = out, .resume = options.resume});
}

int run(const Options& options, const Session& session) {
  const std::filesystem::path out = options.out.empty() ? std::filesystem::path("runs") / std::filesystem::path(options.recipe).stem()
                                                        : std::filesystem::path(options.out);
  const TomlValue root = load_recipe(options.recipe, options.assignments);
  const std::string task = task_of(root);
  const train::PretrainOutcome outcome =
      task == "pretrain_pairs"                 ? run_task<train::PairsRecipe>(root, options, session, out, train::pretrain_pairs)
      : task == "answer" || task == "contrast" ? run_task<train::AnswersRecipe>(root, options, session, out, train::pretrain_answers)
                                               : run_task<train::PretrainRecipe>(root, options, session, out, train::pretrain);
  using End = train::PretrainOutcome::End;
  if (outcome.end == End::already_finished) {
    log_info(out.string() + " is finished already");
    return 0;
  }
  if (outcome.end == End::interrupted) {
    log_info("interrupted after step " + std::to_string(outcome.steps) + "; the state is saved. Go on with the same command and --resume");
    return 128 + outcome.signal;
  }
  log_info("trained " + std::to_string(outcome.steps) + " steps; the model is in " + (out / "model").string());
  return 0;
}

}  // namespace

Command pretrain_command() {
  return {.name = "pretrain",
          .summary = "train one of the small bundled backbones from nothing",
          .example =
              "mmtune pretrain recipes/pretrain_vit.toml --out runs/tower\n"
              "mmtune pretrain recipes/pretrain_vit.toml train.steps=100 --out runs/short\n"
              "mmtune pretrain recipes/pretrain_vit.toml --out runs/tower --resume\n"
              "mmtune pretrain recipes/pretrain_vilt.toml --out runs/vilt",
          .declare = [](Arguments& arguments) -> Action {
            const auto options = std::make_shared<Options>();
            arguments.positional("RECIPE", &options->recipe, {.help = "the recipe, a TOML file", .required = true});
            arguments.positional("KEY=VALUE", &options->assignments, {.help = "changes of the recipe: train.lr=1e-3", .required = false});
            arguments.option("-o,--out", &options->out,
                             {.help = "the run folder; runs/ and the recipe's name where it is not given", .value = "RUN"});
            arguments.flag("--resume", options->resume, "go on from the run's last checkpoint, or begin where there is none");
            return [options](const Session& session) { return run(*options, session); };
          },
          .epilogue =
              [] {
                return "Of a tower:\n" + options_as_help(document_options<train::PretrainRecipe>()) +
                       "\nWith task = \"pretrain_pairs\", of an encoder of text and picture:\n" +
                       options_as_help(document_options<train::PairsRecipe>()) +
                       "\nWith task = \"answer\" or \"contrast\", of a model that speaks of pictures, or a CLIP:\n" +
                       options_as_help(document_options<train::AnswersRecipe>());
              },
          .engine = true};
}

}  // namespace mmtune::cli
