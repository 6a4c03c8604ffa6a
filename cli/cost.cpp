// mmtune cost RECIPE.toml: what an expert costs, before anything is trained.

#include "train/cost.h"

#include <algorithm>
#include <memory>

#include "arguments.h"
#include "commands.h"
#include "core/error.h"
#include "experts/expert.h"
#include "model_options.h"
#include "print.h"
#include "report/table.h"
#include "train/machine.h"

namespace mmtune::cli {

namespace {

struct Options {
  std::string recipe;
  std::vector<std::string> assignments, compare;
  ModelOptions model;
  train::CostOptions cost;
  bool json = false;
};

Json to_json(const train::Cost& cost) {
  Json json = {{"method", cost.method},
               {"backbone_parameters", cost.backbone_parameters},
               {"expert_parameters", cost.expert_parameters},
               {"head_parameters", cost.head_parameters},
               {"forward_macs", cost.forward_macs},
               {"expert_macs", cost.expert_macs},
               {"training_macs", cost.training_macs},
               {"state_bytes", cost.state_bytes}};
  if (cost.prompts) {
    Json forms = Json::array();
    for (const train::PromptForm& form : cost.prompts->forms)
      forms.push_back({{"form", form.name}, {"parameters", form.parameters}, {"macs", form.macs}, {"runs", form.runs}});
    json["prompts"] = {
        {"places", cost.prompts->places}, {"prompts", cost.prompts->prompts}, {"rank", cost.prompts->rank}, {"forms", forms}};
  }
  if (cost.step) {
    json["step"] = {{"seconds", cost.step->seconds},
                    {"bound_seconds", cost.step->bound_seconds},
                    {"ratio", cost.step->seconds / cost.step->bound_seconds},
                    {"gemm_flops", cost.step->gemm_flops},
                    {"fastest_seconds", cost.step->fastest_seconds},
                    {"fastest_gemm_flops", cost.step->fastest_gemm_flops},
                    {"peak_bytes", cost.step->peak_bytes},
                    {"steps", cost.step->steps}};
    if (cost.step->extra_seconds) json["step"]["extra_seconds"] = *cost.step->extra_seconds;
  }
  return json;
}

report::Table to_table(const std::vector<train::Cost>& costs) {
  using report::Align;
  std::vector<report::Column> columns = {{"method"},
                                         {"trained", Align::right},
                                         {"of backbone", Align::right},
                                         {"head", Align::right},
                                         {"forward", Align::right},
                                         {"added", Align::right},
                                         {"training", Align::right},
                                         {"state", Align::right}};
  const bool measured = costs.front().step.has_value();
  const bool inferred = measured && costs.front().step->extra_seconds.has_value();
  if (measured) {
    for (const char* title : {inferred ? "pass" : "step", "× bound", "peak"}) columns.push_back({title, Align::right});
  }
  if (inferred) columns.push_back({"of it experts", Align::right});
  report::Table table(columns);
  for (const train::Cost& cost : costs) {
    const double share = 100.0 * static_cast<double>(cost.expert_parameters) / static_cast<double>(cost.backbone_parameters);
    std::vector<report::Cell> cells = {cost.method,
                                       report::human_count(static_cast<double>(cost.expert_parameters)),
                                       report::fixed(share, 2) + " %",
                                       report::human_count(static_cast<double>(cost.head_parameters)),
                                       report::human_macs(cost.forward_macs),
                                       "+" + report::human_macs(cost.expert_macs),
                                       report::human_macs(cost.training_macs),
                                       report::human_bytes(static_cast<double>(cost.state_bytes))};
    if (measured) {
      cells.emplace_back(report::human_duration(cost.step->seconds));
      cells.emplace_back(report::fixed(cost.step->seconds / cost.step->bound_seconds, 2));
      cells.emplace_back(report::human_bytes(static_cast<double>(cost.step->peak_bytes)));
    }
    if (inferred) cells.emplace_back(report::fixed(100 * *cost.step->extra_seconds / cost.step->fastest_seconds, 1) + " %");
    table.add(std::move(cells));
  }
  return table;
}

/// The forms of prompting side by side, where an expert is one of them; APT's own p and r where there is one.
void print_prompt_forms(const std::vector<train::Cost>& costs) {
  const auto with = [&](const std::string& method) {
    return std::find_if(costs.begin(), costs.end(),
                        [&](const train::Cost& cost) { return cost.prompts && (method.empty() || cost.method == method); });
  };
  auto found = with("apt");
  if (found == costs.end()) found = with("");
  if (found == costs.end()) return;
  const train::PromptComparison& prompts = *found->prompts;
  using report::Align;
  report::Table table({{"form"}, {"parameters", Align::right}, {"added", Align::right}, {"apt saves", Align::right}});
  const double apt = prompts.forms.front().macs;
  for (const train::PromptForm& form : prompts.forms)
    table.add({form.name, report::human_count(static_cast<double>(form.parameters)), "+" + report::fixed(form.macs / 1e9, 2) + " GMAC",
               form.name.starts_with("apt") ? "" : report::fixed(100 * train::saving(apt, form.macs, !form.runs), 2) + " %"});
  print("\n" + std::to_string(prompts.prompts) + " prompts of rank " + std::to_string(prompts.rank) + " at " +
        std::to_string(prompts.places) + " attentions of the main tower:\n" + table.text());
  print(
      "\"as tables count them\" is the arithmetic of the paper's tables, \"released code\" what its program computes; the saving against "
      "both "
      "is of the numbers as printed.\n");
}

/// The recipe's experts of this kind, or one with the kind's defaults where it has none.
void keep_only(train::Recipe& recipe, const std::string& kind) {
  std::erase_if(recipe.experts, [&](const train::ExpertSection& section) { return section.method != kind; });
  if (!recipe.experts.empty()) return;
  recipe.experts.emplace_back();
  recipe.experts.back().method = kind;
}

int run(const Options& options, const Session& session) {
  if (options.cost.measure > 0 && options.compare.size() > 1)
    throw UsageError({.what = "--measure",
                      .expected = "one method at a time, for its memory is the whole process's",
                      .hint = "run the command once for each method"});
  for (const std::string& kind : options.compare) experts::expert_recipe(kind);  // all names are checked before anything is opened
  std::vector<train::Cost> costs;
  for (std::size_t i = 0; i < std::max<std::size_t>(options.compare.size(), 1); ++i) {
    train::Recipe recipe = train::read_recipe_file(options.recipe, options.model.applied_to(options.assignments));
    if (!options.compare.empty()) keep_only(recipe, options.compare[i]);
    train::set_threads(session.threads > 0 ? session.threads : recipe.train.threads);
    train::CostOptions cost = options.cost;
    if (cost.batch == 0) cost.batch = recipe.train.batch;
    costs.push_back(train::cost_of(recipe, cost));
  }
  if (options.json) {
    Json all = Json::array();
    for (const train::Cost& cost : costs) all.push_back(to_json(cost));
    print_json({{"tokens", costs.front().text_tokens}, {"batch", options.cost.batch}, {"costs", all}});
  } else {
    print(to_table(costs).text());
    print("One example" + std::string(options.cost.measure > 0 ? ", and steps without padding" : "") +
          "; MACs are of linear maps and attention products. \"added\" counts every row of every block.\n");
    print_prompt_forms(costs);
  }
  return 0;
}

}  // namespace

Command cost_command() {
  return {.name = "cost",
          .summary = "trainable parameters, operations and memory of a recipe; a measured step on request",
          .example =
              "mmtune cost recipes/banking77.toml --tokens 32\n"
              "mmtune cost recipes/banking77.toml --compare lora,adapter,prefix,prompt,bitfit,linear\n"
              "mmtune cost recipes/banking77.toml expert.rank=8 --measure 20 --batch 16",
          .declare = [](Arguments& arguments) -> Action {
            const auto options = std::make_shared<Options>();
            options->cost.batch = 0;
            arguments.positional("RECIPE", &options->recipe, {.help = "the recipe, a TOML file", .required = true});
            arguments.positional("KEY=VALUE", &options->assignments, {.help = "changes of the recipe: expert.rank=4", .required = false});
            arguments.option("--compare", &options->compare,
                             {.help = "price these kinds of expert, with the recipe's backbones", .value = "KINDS", .comma = true});
            arguments.option("--tokens", &options->cost.tokens,
                             {.help = "length of a text (128, or what the backbone has positions for)", .value = "N", .min = 1});
            arguments.option("--patches", &options->cost.patches,
                             {.help = "patches of a picture, where the backbone takes any size", .value = "N", .min = 1});
            arguments.option("--seconds", &options->cost.seconds, {.help = "length of a sound (4)", .value = "S", .min = 0});
            arguments.option("--classes", &options->cost.outputs, {.help = "outputs of the head (2)", .value = "N", .min = 1});
            arguments.option("--measure", &options->cost.measure, {.help = "time N training steps", .value = "N", .min = 0});
            arguments.flag("--inference", options->cost.inference, "time forward passes without gradients instead of training steps");
            arguments.option("--batch", &options->cost.batch,
                             {.help = "examples of a measured step (the recipe's batch)", .value = "N", .min = 0});
            options->model.declare(arguments);
            arguments.flag("--json", options->json, "print JSON");
            return [options](const Session& session) { return run(*options, session); };
          },
          .engine = true};
}

}  // namespace mmtune::cli
