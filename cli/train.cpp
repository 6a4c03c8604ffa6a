// mmtune train RECIPE.toml [key=value …]: trains an expert and leaves a run folder.

#include "train/train.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>

#include "arguments.h"
#include "commands.h"
#include "core/error.h"
#include "core/files.h"
#include "core/json.h"
#include "core/log.h"
#include "core/recipe.h"
#include "methods/tvp_train.h"
#include "model_options.h"
#include "report/table.h"

namespace mmtune::cli {

namespace {

struct Options {
  std::string recipe;
  std::vector<std::string> assignments;
  ModelOptions model;
  std::string out;
  bool resume = false;
  std::vector<std::string> seeds;
};

std::string quoted(const std::filesystem::path& path) {
  const std::string text = path.string();
  return text.find_first_of(" '\"$&;()<>|*?\\") == std::string::npos ? text : "\"" + text + "\"";
}

train::Recipe read_recipe(const Options& options, const Session& session) {
  train::Recipe recipe = train::read_recipe_file(options.recipe, options.model.applied_to(options.assignments));
  if (session.threads > 0) recipe.train.threads = session.threads;
  return recipe;
}

/// The recipe of a visual prompt is another one; nothing where it is not such a one.
std::optional<methods::TvpRecipe> read_prompt_recipe(const Options& options, const Session& session) {
  const std::vector<std::string> assignments = options.model.applied_to(options.assignments);
  if (!methods::is_tvp_recipe(load_recipe(options.recipe, assignments))) return std::nullopt;
  if (!options.model.weights.empty() || !options.model.matmul_precision.empty() || !options.model.device.empty())
    throw UsageError({.what = "--weights, --matmul-precision and --device are for models with one backbone",
                      .where = "expert.method = \"tvp\"",
                      .expected = "train.weights and train.matmul_precision in the recipe"});
  methods::TvpRecipe recipe = methods::read_tvp_recipe(options.recipe, assignments);
  if (session.threads > 0) recipe.train.threads = session.threads;
  return recipe;
}

/// Trains into `out`. 0, or the exit code of an interruption, after saying how to go on with `again`.
template <class AnyRecipe>
int train_one(AnyRecipe& recipe, const std::filesystem::path& out, bool resume, const std::string& again, train::Communicator& all) {
  const train::TrainOptions into{.out = out, .resume = resume};
  const train::TrainOutcome outcome = [&] {
    if constexpr (std::is_same_v<AnyRecipe, methods::TvpRecipe>) {
      return methods::train_prompt(recipe, into, all);
    } else {
      return train::train(recipe, into, all);
    }
  }();
  using End = train::TrainOutcome::End;
  if (outcome.end == End::already_finished) {
    log_info(out.string() + " is finished already");
    return 0;
  }
  if (outcome.end == End::interrupted) {
    log_info("interrupted after step " + std::to_string(outcome.steps) + "; the state is saved. Go on with:");
    log_info("  " + again);
    return 128 + outcome.signal;
  }
  std::string line = "trained " + std::to_string(outcome.steps) + " steps";
  if (outcome.best) line += ", best valid " + outcome.metric + " " + report::fixed(*outcome.best);
  log_info(line + "; the run is in " + out.string());
  return 0;
}

std::vector<std::int64_t> parse_seeds(const std::vector<std::string>& texts) {
  std::vector<std::int64_t> seeds;
  for (const std::string& text : texts) {
    std::int64_t seed = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
    if (error != std::errc() || end != text.data() + text.size() || seed < 0)
      throw UsageError(
          {.what = "not a seed", .where = "--seeds", .expected = "integers from 0, as in 1,2,3", .got = "\"" + printable(text) + "\""});
    if (std::find(seeds.begin(), seeds.end(), seed) != seeds.end())
      throw UsageError({.what = "a seed stands there twice", .where = "--seeds", .got = text});
    seeds.push_back(seed);
  }
  return seeds;
}

/// Mean and sample standard deviation (n − 1; none of a single value) of every metric of the runs' validation.
Json summary_of_seeds(const std::filesystem::path& out, const std::vector<std::int64_t>& seeds) {
  std::map<std::string, std::vector<double>> values;
  Json runs = Json::array();
  for (const std::int64_t seed : seeds) {
    const std::filesystem::path run = out / ("seed-" + std::to_string(seed));
    const Json record = read_json_file((run / "run.json").string());
    runs.push_back({{"seed", seed}, {"run", run.filename().string()}, {"valid", record.value("valid", Json())}});
    const Json valid = record.value("valid", Json::object());
    if (!valid.is_object()) continue;
    for (const auto& [name, value] : valid.items())
      if (value.is_number()) values[name].push_back(value.get<double>());
  }
  Json metrics = Json::object();
  for (const auto& [name, all] : values) {
    const auto count = static_cast<double>(all.size());
    double mean = 0, squares = 0;
    for (const double value : all) mean += value / count;
    for (const double value : all) squares += (value - mean) * (value - mean);
    metrics[name] = {{"mean", mean}, {"std", all.size() > 1 ? Json(std::sqrt(squares / (count - 1))) : Json()}, {"runs", all.size()}};
  }
  return {{"runs", runs}, {"valid", metrics}};
}

int run_seeds(const Options& options, const Session& session, const std::filesystem::path& out, train::Communicator& all) {
  const std::vector<std::int64_t> seeds = parse_seeds(options.seeds);
  for (const std::int64_t seed : seeds) {
    const std::filesystem::path run = out / ("seed-" + std::to_string(seed));
    const auto train_with = [&](auto recipe) {
      recipe.train.seed = seed;
      return train_one(recipe, run, options.resume, "the same command and --resume", all);
    };
    const auto prompt = read_prompt_recipe(options, session);
    const int code = prompt ? train_with(*prompt) : train_with(read_recipe(options, session));
    if (code != 0) return code;
  }
  if (!all.leads()) return 0;
  const Json summary = summary_of_seeds(out, seeds);
  write_file_atomically(out / "seeds.json", summary.dump(2) + "\n");
  if (summary["valid"].empty()) {
    log_info("no validation data: nothing to compare");
    return 0;
  }
  report::Table table({{"valid"}, {"mean", report::Align::right}, {"std", report::Align::right}, {"runs", report::Align::right}});
  for (const auto& [name, metric] : summary["valid"].items())
    table.add({name, report::fixed(metric["mean"].get<double>()),
               metric["std"].is_null() ? "—" : report::fixed(metric["std"].get<double>()), metric["runs"].get<std::int64_t>()});
  log_info("over " + std::to_string(seeds.size()) + " seeds (" + (out / "seeds.json").string() + "):\n" + table.text());
  return 0;
}

int run_all(const Options& options, const Session& session, train::Communicator& all) {
  const std::filesystem::path recipe_file(options.recipe);
  const std::filesystem::path out =
      options.out.empty() ? std::filesystem::path("runs") / recipe_file.stem() : std::filesystem::path(options.out);
  if (!options.seeds.empty()) return run_seeds(options, session, out, all);
  const std::string again = "mmtune train " + quoted(out / "recipe.toml") + " --out " + quoted(out) + " --resume";
  const auto train_with = [&](auto recipe) { return train_one(recipe, out, options.resume, again, all); };
  const auto prompt = read_prompt_recipe(options, session);
  const int code = prompt ? train_with(*prompt) : train_with(read_recipe(options, session));
  if (code == 0) log_info("evaluate it with: mmtune eval " + quoted(out) + " --data MANIFEST");
  return code;
}

/// One process that cannot go on ends all of them: the others would wait for it forever.
int run(const Options& options, const Session& session) {
  const std::unique_ptr<train::Communicator> all = train::open_communicator();
  if (!all->leads()) ::setenv("MMTUNE_LOG", "quiet", 1);
  if (!all->shared()) return run_all(options, session, *all);
  try {
    return run_all(options, session, *all);
  } catch (const std::exception& error) {
    const std::string message(error.what());
    std::fprintf(stderr, "mmtune: error: process %d of %d: %s\n", all->rank() + 1, all->size(),
                 printable(message.substr(0, message.find('\n')), 1000).c_str());
    const int code = dynamic_cast<const UsageError*>(&error) != nullptr ? 2 : 1;
    all->end_all(code);
    return code;
  }
}

}  // namespace

Command train_command() {
  return {.name = "train",
          .summary = "train an expert; leaves a run folder",
          .example =
              "mmtune train recipes/banking77.toml --out runs/banking77\n"
              "mmtune train recipes/banking77.toml train.lr=1e-3 expert.rank=4 --out runs/rank4\n"
              "mmtune train runs/rank4/recipe.toml --out runs/rank4 --resume\n"
              "mmtune train recipes/banking77.toml --seeds 1,2,3 --out runs/banking77\n"
              "mpirun -np 2 mmtune --threads 1 train recipes/banking77.toml",
          .declare = [](Arguments& arguments) -> Action {
            const auto options = std::make_shared<Options>();
            arguments.positional("RECIPE", &options->recipe, {.help = "the recipe, a TOML file", .required = true});
            arguments.positional("KEY=VALUE", &options->assignments, {.help = "changes of the recipe: train.lr=1e-3", .required = false});
            arguments.option("-o,--out", &options->out,
                             {.help = "the run folder; runs/ and the recipe's name where it is not given", .value = "RUN"});
            options->model.declare(arguments);
            arguments.flag("--resume", options->resume, "go on from the run's last checkpoint, or begin where there is none");
            arguments.option(
                "--seeds", &options->seeds,
                {.help = "train once for each seed, into RUN/seed-N, and compare: mean and standard deviation in RUN/seeds.json",
                 .value = "1,2,3",
                 .comma = true});
            return [options](const Session& session) { return run(*options, session); };
          },
          .epilogue =
              [] {
                return "The keys of a recipe:\n" + train::describe_recipe() + "\nThe keys of a recipe with expert.method = \"tvp\":\n" +
                       options_as_help(document_options<methods::TvpRecipe>());
              },
          .engine = true};
}

}  // namespace mmtune::cli
