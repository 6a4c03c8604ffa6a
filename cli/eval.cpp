// mmtune eval RUN --data MANIFEST: the task's metrics with confidence intervals, loss and throughput.

#include <cmath>
#include <memory>

#include "arguments.h"
#include "commands.h"
#include "core/error.h"
#include "core/log.h"
#include "methods/tvp_run.h"
#include "model_options.h"
#include "print.h"
#include "prompted_run.h"
#include "report/table.h"
#include "train/evaluate.h"
#include "train/features.h"
#include "train/machine.h"
#include "train/session.h"
#include "zero_shot.h"

namespace mmtune::cli {

namespace {

struct Options {
  Question question;
  ModelOptions model;
  std::string other;  ///< a model that a visual prompt is tried on
  std::int64_t batch = 32;
  std::string corrupt;
  bool json = false;
};

Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

Json to_json(const train::Evaluation& evaluation, const data::Dataset& dataset) {
  Json json = {{"data", dataset.source},          {"data_fingerprint", dataset.fingerprint},
               {"examples", evaluation.examples}, {"skipped", evaluation.skipped.size()},
               {"seconds", evaluation.seconds},   {"examples_per_second", static_cast<double>(evaluation.examples) / evaluation.seconds}};
  for (const report::Metric& metric : evaluation.metrics) {
    Json& entry = json["metrics"][metric.name];
    entry["value"] = number(metric.value);
    if (metric.interval) entry["interval"] = {number(metric.interval->low), number(metric.interval->high)};
  }
  json["details"] = evaluation.details;
  for (const train::PatternResult& pattern : evaluation.patterns) {
    Json& entry = json["patterns"][pattern.pattern];
    entry["examples"] = pattern.examples;
    for (const report::Metric& metric : pattern.metrics) entry["metrics"][metric.name] = number(metric.value);
  }
  return json;
}

std::string to_text(const train::Evaluation& evaluation) {
  report::Table table({{"metric"}, {"value", report::Align::right}, {"95 % interval", report::Align::right}});
  for (const report::Metric& metric : evaluation.metrics) {
    std::string interval;
    if (metric.interval) interval = report::fixed(metric.interval->low) + " – " + report::fixed(metric.interval->high);
    table.add({metric.name, report::fixed(metric.value), interval});
  }
  std::string text = table.text() + "\n";
  if (!evaluation.patterns.empty()) {
    report::Table patterns({{"examples that have"}, {"examples", report::Align::right}, {"metric"}, {"value", report::Align::right}});
    for (const train::PatternResult& pattern : evaluation.patterns)
      for (const report::Metric& metric : pattern.metrics)
        patterns.add({pattern.pattern, std::to_string(pattern.examples), metric.name, report::fixed(metric.value)});
    text += patterns.text() + "\n";
  }
  text += std::to_string(evaluation.examples) + " examples, " +
          report::fixed(static_cast<double>(evaluation.examples) / evaluation.seconds, 1) + " a second";
  if (!evaluation.skipped.empty()) text += ", " + std::to_string(evaluation.skipped.size()) + " skipped";
  return text + "\n";
}

int run(const Options& options, const Session& session) {
  if (methods::is_tvp_run(options.question.subject))
    return eval_prompted({.run = options.question.subject,
                          .assignments = options.question.assignments,
                          .data = options.question.data,
                          .image = {},
                          .text = {},
                          .model = options.other,
                          .corrupt = options.corrupt,
                          .batch = options.batch,
                          .json = options.json},
                         session);
  if (!options.other.empty()) throw UsageError({.what = "--model is for runs of visual prompts", .where = options.question.subject});
  const train::TrainedRun opened = open_question(options.question, options.model.applied_to(options.question.assignments));
  train::set_threads(session.threads > 0 ? session.threads : opened.recipe.train.threads);
  data::ReadOptions read = train::question_options_of(opened.recipe.data, options.question.data, *opened.task);
  limit_as_asked(read, options.question.assignments, opened.recipe.data);
  if (!options.corrupt.empty()) read.corruption = vision::parse_corruption(options.corrupt, "--corrupt");
  const data::Dataset dataset = data::read_dataset(read);
  train::warn_of_skipped_rows(dataset);
  std::optional<report::BootstrapOptions> bootstrap;
  if (opened.recipe.eval.bootstrap > 0)
    bootstrap = report::BootstrapOptions{.replicates = static_cast<std::size_t>(opened.recipe.eval.bootstrap)};
  const data::Dataset* const datasets[] = {&dataset};
  train::store_frozen_features(*opened.model, datasets, train::store_options_of(opened.recipe.data));
  const auto evaluation = train::evaluate(*opened.model, *opened.task, dataset,
                                          {.batch = options.batch,
                                           .workers = static_cast<int>(opened.recipe.data.workers),
                                           .on_error = opened.recipe.data.on_error,
                                           .label = "evaluating"},
                                          bootstrap);
  if (!evaluation->skipped.empty())
    log_warning(std::to_string(evaluation->skipped.size()) + " examples could not be read; the first: " + evaluation->skipped.front());
  if (options.json) {
    print_json(to_json(*evaluation, dataset));
  } else {
    print(to_text(*evaluation));
  }
  return 0;
}

}  // namespace

Command eval_command() {
  return {
      .name = "eval",
      .summary = "the task's metrics with confidence intervals, loss and throughput",
      .example =
          "mmtune eval runs/banking77 --data banking77/test.jsonl\n"
          "mmtune eval runs/eurosat --data eurosat/manifest.jsonl data.where.split=test --json\n"
          "mmtune eval openai/clip-vit-base-patch32 --data pets.jsonl --template \"a photo of a {}, a pet.\"",
      .declare = [](Arguments& arguments) -> Action {
        const auto options = std::make_shared<Options>();
        declare_question(arguments, options->question);
        arguments.option("--data", &options->question.data,
                         {.help = "labelled data, read as the recipe's [data] says", .required = true, .value = "MANIFEST"});
        arguments.option("--batch", &options->batch, {.help = "examples of a forward pass", .value = "N", .min = 1});
        arguments.option("--corrupt", &options->corrupt,
                         {.help = "make every picture worse first: gaussian_noise, shot_noise, impulse_noise, defocus_blur, gaussian_blur, "
                                  "motion_blur, brightness, contrast, saturation, jpeg or pixelate, with a severity of 1 to 5",
                          .value = "NAME:SEVERITY"});
        arguments.option("--model", &options->other,
                         {.help = "a visual prompt: the model to try it on, instead of the one it was trained through", .value = "MODEL"});
        options->model.declare(arguments);
        arguments.flag("--json", options->json, "print JSON, with the confusion matrix and F1 of every class");
        return [options](const Session& session) { return run(*options, session); };
      },
      .engine = true};
}

}  // namespace mmtune::cli
