#include "prompted_run.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "methods/tvp_run.h"
#include "methods/tvp_transfer.h"
#include "print.h"
#include "report/metric_json.h"
#include "report/table.h"
#include "train/machine.h"
#include "train/session.h"

namespace mmtune::cli {

namespace {

methods::PromptedModel open_model(const PromptedQuestion& question, const methods::TvpRecipe& recipe) {
  return methods::PromptedModel::open(question.model.empty() ? recipe.sources.front().model : question.model, recipe.train.weights);
}

methods::ScoreRequest request_of(const PromptedQuestion& question, const methods::TvpRun& run, const std::string& label) {
  return {.prompt = &run.prompt.prompt,
          .shape = run.prompt.prompt.shape(),
          .shown = methods::ShownPicture::prompted,
          .score = {.reduction = run.recipe.question.reduction, .format = run.recipe.question.format},
          .matmul_precision = run.recipe.train.matmul_precision,
          .batch = question.batch,
          .workers = static_cast<int>(run.recipe.data.workers),
          .seed = static_cast<std::uint64_t>(run.recipe.train.seed),
          .label = label,
          .stop = {}};
}

}  // namespace

int eval_prompted(const PromptedQuestion& question, const Session& session) {
  const methods::TvpRun run = methods::open_tvp_run(question.run, question.assignments);
  train::set_threads(session.threads > 0 ? session.threads : run.recipe.train.threads);
  data::ReadOptions read = train::question_options_of(run.recipe.data, question.data, run.classes, question.assignments);
  if (!question.corrupt.empty()) read.corruption = vision::parse_corruption(question.corrupt, "--corrupt");
  const data::Dataset dataset = data::read_dataset(read);
  const methods::PromptedModel model = open_model(question, run.recipe);
  const methods::Questions questions(run.recipe.question, run.recipe.task, *model.text, run.classes);
  std::optional<report::BootstrapOptions> bootstrap;
  if (run.recipe.eval.bootstrap > 0)
    bootstrap = report::BootstrapOptions{.replicates = static_cast<std::size_t>(run.recipe.eval.bootstrap)};
  struct Row {
    const char *key, *title;
    methods::ShownPicture shown;
    std::vector<report::Metric> metrics = {};
  };
  std::vector<Row> rows = {{"prompted", "prompted", methods::ShownPicture::prompted},
                           {"zero_shot_framed", "no prompt, in the frame", methods::ShownPicture::framed},
                           {"zero_shot_full", "no prompt, picture fills the frame", methods::ShownPicture::full}};
  const auto begin = std::chrono::steady_clock::now();
  for (Row& row : rows) {
    methods::ScoreRequest request = request_of(question, run, row.title);
    request.shown = row.shown;
    row.metrics = methods::judge(run.recipe.task, *methods::candidate_scores(model, questions, dataset, request), dataset, bootstrap);
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const auto examples = dataset.examples.size();
  if (question.json) {
    Json json = {{"data", dataset.source},     {"data_fingerprint", dataset.fingerprint},
                 {"examples", examples},       {"model", model.name},
                 {"seconds", seconds},         {"instruction", questions.instruction()},
                 {"skipped", dataset.skipped}, {"metrics", report::metrics_json(rows[0].metrics)}};
    for (const Row& row : rows) json["rows"][row.key] = report::metrics_json(row.metrics);
    print_json(json);
    return 0;
  }
  report::Table table({{"picture"}, {"metric"}, {"value", report::Align::right}, {"95 % interval", report::Align::right}});
  for (const Row& row : rows)
    for (const report::Metric& metric : row.metrics)
      table.add({row.title, metric.name, report::fixed(metric.value),
                 metric.interval ? report::fixed(metric.interval->low) + " – " + report::fixed(metric.interval->high) : ""});
  print(table.text() + "\n" + std::to_string(examples) + " examples on " + model.name + ", " +
        report::fixed(3 * static_cast<double>(examples) / seconds, 1) + " pictures a second\n");
  return 0;
}

int predict_prompted(const PromptedQuestion& question, const Session& session) {
  const methods::TvpRun run = methods::open_tvp_run(question.run, question.assignments);
  train::set_threads(session.threads > 0 ? session.threads : run.recipe.train.threads);
  data::Dataset dataset;
  if (question.data.empty()) {
    data::Example example;
    example.id = "the one given";
    example.text = question.text;
    if (question.image) example.image = data::MediaRef{.file = *question.image};
    dataset.source = "the command line";
    dataset.examples.push_back(std::move(example));
  } else {
    data::ReadOptions read = train::question_options_of(run.recipe.data, question.data, std::vector<std::string>(), question.assignments);
    read.require_labels = false;
    dataset = data::read_dataset(read);
  }
  dataset.classes = run.classes;
  const methods::PromptedModel model = open_model(question, run.recipe);
  const methods::Questions questions(run.recipe.question, run.recipe.task, *model.text, run.classes);
  const at::Tensor scores =
      *methods::candidate_scores(model, questions, dataset, request_of(question, run, question.data.empty() ? "" : "predicting"));
  const std::int64_t top = std::min<std::int64_t>(question.top, scores.size(1));
  const auto [values, order] = scores.sort(1, true);
  for (std::int64_t i = 0; i < scores.size(0); ++i) {
    report::Table table({{"label"}, {"score", report::Align::right}});
    Json json = Json::object();
    if (!question.data.empty()) json["id"] = dataset.examples[static_cast<std::size_t>(i)].id;
    for (std::int64_t k = 0; k < top; ++k) {
      const std::string& label = run.classes[static_cast<std::size_t>(order[i][k].item<std::int64_t>())];
      const auto score = values[i][k].item<double>();
      if (k == 0) json["label"] = label;
      json["top"].push_back({{"label", label}, {"score", score}});
      table.add({label, report::fixed(score)});
    }
    if (question.json || !question.data.empty()) {
      print_json_line(json);
    } else {
      print(table.text());
    }
  }
  return 0;
}

}  // namespace mmtune::cli
