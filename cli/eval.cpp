// mmtune eval RUN --data MANIFEST: the task's metrics with confidence intervals, loss and throughput.

#include <algorithm>
#include <memory>

#include "arguments.h"
#include "commands.h"
#include "core/error.h"
#include "core/log.h"
#include "methods/tvp_run.h"
#include "model_options.h"
#include "print.h"
#include "prompted_run.h"
#include "report/metric_json.h"
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
  std::vector<std::string> others;  ///< runs to compare with the first
  ModelOptions model;
  std::string other;  ///< a model that a visual prompt is tried on
  std::int64_t batch = 32;
  std::string corrupt;
  bool json = false;
};

/// A run, and what it made of the data.
struct Judged {
  std::string run, method;
  std::int64_t trained = 0;
  std::string data, fingerprint;  ///< as the run read it
  train::Evaluation evaluation;
};

Json to_json(const Judged& judged) {
  const train::Evaluation& evaluation = judged.evaluation;
  Json json = {{"data", judged.data},
               {"data_fingerprint", judged.fingerprint},
               {"examples", evaluation.examples},
               {"skipped", evaluation.skipped.size()},
               {"seconds", evaluation.seconds},
               {"examples_per_second", static_cast<double>(evaluation.examples) / evaluation.seconds},
               {"metrics", report::metrics_json(evaluation.metrics)},
               {"details", evaluation.details}};
  for (const train::PatternResult& pattern : evaluation.patterns) {
    Json& entry = json["patterns"][pattern.pattern];
    entry["examples"] = pattern.examples;
    for (const report::Metric& metric : pattern.metrics) entry["metrics"][metric.name] = report::number_or_null(metric.value);
  }
  return json;
}

std::string interval_text(const report::Metric& metric) {
  return metric.interval ? report::fixed(metric.interval->low) + " – " + report::fixed(metric.interval->high) : "";
}

std::string to_text(const train::Evaluation& evaluation) {
  report::Table table({{"metric"}, {"value", report::Align::right}, {"95 % interval", report::Align::right}});
  for (const report::Metric& metric : evaluation.metrics) table.add({metric.name, report::fixed(metric.value), interval_text(metric)});
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

/// Whether both saw the same examples, so that replicates can be paired.
bool paired(const Judged& one, const Judged& other) {
  return one.fingerprint == other.fingerprint && one.evaluation.examples == other.evaluation.examples && one.evaluation.skipped.empty() &&
         other.evaluation.skipped.empty();
}

/// The metric of `one` less that of `other`, with its interval where both saw the same examples.
std::optional<report::Metric> difference_of(const Judged& one, const Judged& other, const report::Metric& metric) {
  const report::Metric* const reference = other.evaluation.find(metric.name);
  if (reference == nullptr) return std::nullopt;
  report::Metric difference{.name = metric.name, .value = metric.value - reference->value};
  if (metric.interval && reference->interval && paired(one, other) &&
      metric.interval->replicates.size() == reference->interval->replicates.size())
    difference.interval = report::difference(*metric.interval, *reference->interval);
  return difference;
}

/// Runs in lines; of the first metric its interval too, and the difference to the first run.
std::string compared(const std::vector<Judged>& runs) {
  const std::vector<report::Metric>& metrics = runs.front().evaluation.metrics;
  std::vector<report::Column> columns = {{"run"},
                                         {"method"},
                                         {"trained", report::Align::right},
                                         {metrics.front().name, report::Align::right},
                                         {"95 % interval", report::Align::right},
                                         {"less the first", report::Align::right},
                                         {"95 %, paired", report::Align::right}};
  for (std::size_t m = 1; m < metrics.size(); ++m) columns.push_back({metrics[m].name, report::Align::right});
  report::Table table(std::move(columns));
  for (const Judged& run : runs) {
    std::vector<report::Cell> cells = {run.run, run.method, report::human_count(static_cast<double>(run.trained))};
    for (std::size_t m = 0; m < metrics.size(); ++m) {
      const report::Metric* const metric = run.evaluation.find(metrics[m].name);
      cells.emplace_back(metric != nullptr ? report::fixed(metric->value) : "");
      if (m > 0) continue;
      const auto difference = &run != &runs.front() && metric != nullptr ? difference_of(run, runs.front(), *metric) : std::nullopt;
      cells.emplace_back(metric != nullptr ? interval_text(*metric) : "");
      cells.emplace_back(difference ? report::fixed(difference->value) : "");
      cells.emplace_back(difference ? interval_text(*difference) : "");
    }
    table.add(std::move(cells));
  }
  std::string text = table.text() + "\n" + std::to_string(runs.front().evaluation.examples) + " examples\n";
  for (const Judged& run : runs)
    if (!paired(run, runs.front())) text += run.run + " reads other examples than " + runs.front().run + " does; nothing is paired\n";
  return text;
}

[[noreturn]] void refuse_prompts(const std::string& where) {
  throw UsageError({.what = "runs of visual prompts are compared by mmtune prompt transfer", .where = where});
}

std::string methods_of(const train::TrainedRun& opened) {
  std::string names;
  for (const train::ExpertSection& expert : opened.recipe.experts) names += (names.empty() ? "" : " + ") + expert.method;
  return names;
}

/// `keep`: replicates, for comparing.
Judged judge(const Options& options, const std::string& subject, bool keep, const Session& session) {
  Question question = options.question;
  question.subject = subject;
  const train::TrainedRun opened = open_question(question, options.model.applied_to(question.assignments));
  train::set_threads(session.threads > 0 ? session.threads : opened.recipe.train.threads);
  data::ReadOptions read = train::question_options_of(opened.recipe.data, question.data, *opened.task, question.assignments);
  if (!options.corrupt.empty()) read.corruption = vision::parse_corruption(options.corrupt, "--corrupt");
  const data::Dataset dataset = data::read_dataset(read);
  train::warn_of_skipped_rows(dataset);
  std::optional<report::BootstrapOptions> bootstrap;
  if (opened.recipe.eval.bootstrap > 0)
    bootstrap = report::BootstrapOptions{.replicates = static_cast<std::size_t>(opened.recipe.eval.bootstrap), .keep = keep};
  const data::Dataset* const datasets[] = {&dataset};
  train::store_frozen_features(*opened.model, datasets, train::store_options_of(opened.recipe.data));
  auto evaluation = train::evaluate(*opened.model, *opened.task, dataset,
                                    {.batch = options.batch,
                                     .workers = static_cast<int>(opened.recipe.data.workers),
                                     .on_error = opened.recipe.data.on_error,
                                     .label = "evaluating"},
                                    bootstrap);
  if (!evaluation->skipped.empty())
    log_warning(std::to_string(evaluation->skipped.size()) + " examples could not be read; the first: " + evaluation->skipped.front());
  return {.run = subject,
          .method = methods_of(opened),
          .trained = opened.record.is_object() ? opened.record.value("trainable_parameters", std::int64_t{0}) : 0,
          .data = dataset.source,
          .fingerprint = dataset.fingerprint,
          .evaluation = std::move(*evaluation)};
}

int compare(const Options& options, const Session& session) {
  std::vector<Judged> runs = {judge(options, options.question.subject, true, session)};
  for (const std::string& other : options.others) {
    if (methods::is_tvp_run(other)) refuse_prompts(other);
    runs.push_back(judge(options, other, true, session));
  }
  if (!options.json) {
    print(compared(runs));
    return 0;
  }
  Json all = Json::array();
  for (const Judged& run : runs) {
    Json one = to_json(run);
    one["run"] = run.run;
    one["method"] = run.method;
    one["trainable_parameters"] = run.trained;
    if (&run != &runs.front())
      for (const report::Metric& metric : run.evaluation.metrics)
        if (const auto difference = difference_of(run, runs.front(), metric))
          one["less_the_first"][metric.name] = report::metric_json(*difference);
    all.push_back(std::move(one));
  }
  print_json({{"runs", all}});
  return 0;
}

int run(Options& options, const Session& session) {
  // What is no KEY=VALUE is another run.
  std::vector<std::string>& given = options.question.assignments;
  const auto changes =
      std::stable_partition(given.begin(), given.end(), [](const std::string& one) { return one.find('=') == std::string::npos; });
  options.others.assign(given.begin(), changes);
  given.erase(given.begin(), changes);
  if (methods::is_tvp_run(options.question.subject)) {
    if (!options.others.empty()) refuse_prompts(options.question.subject);
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
  }
  if (!options.other.empty()) throw UsageError({.what = "--model is for runs of visual prompts", .where = options.question.subject});
  if (!options.others.empty()) return compare(options, session);
  const Judged judged = judge(options, options.question.subject, false, session);
  if (options.json) {
    print_json(to_json(judged));
  } else {
    print(to_text(judged.evaluation));
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
          "mmtune eval runs/apt runs/lora runs/deep --data data/easy_vqa/test.jsonl\n"
          "mmtune eval openai/clip-vit-base-patch32 --data pets.jsonl --template \"a photo of a {}, a pet.\"",
      .declare = [](Arguments& arguments) -> Action {
        const auto options = std::make_shared<Options>();
        declare_question(arguments, options->question,
                         "further runs to compare with the first, and changes of the recipes: data.where.split=test");
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
