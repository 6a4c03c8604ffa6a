#include "methods/prompted_model.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/log.h"
#include "data/prefetch.h"
#include "io/checkpoint.h"
#include "methods/tvp_run.h"
#include "report/answers.h"
#include "train/run_folder.h"

namespace mmtune::methods {

namespace {

namespace fs = std::filesystem;

/// What a loader thread makes of a batch.
struct ShownBatch {
  std::vector<std::int64_t> examples;
  at::Tensor pictures;  ///< [B, 3, F, F] in [0, 1]
};

experts::PromptShape shape_of(const ScoreRequest& request) {
  experts::PromptShape shape = request.prompt != nullptr ? request.prompt->shape() : request.shape;
  if (request.shown == ShownPicture::full) shape.image = shape.frame;
  return shape;
}

/// The number that a class is named after.
double number_of(const std::string& name) {
  double value = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), value);
  return error == std::errc() && end == name.data() + name.size() ? value : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

PromptedModel PromptedModel::open(const std::string& name, nn::Storage storage) {
  PromptedModel opened;
  opened.name = name;
  std::error_code ignored;
  const bool run = fs::is_regular_file(fs::path(name) / "run.json", ignored);
  if (run && is_tvp_run(name))
    throw UsageError({.what = "a run of method tvp holds a prompt, not a model", .where = name, .expected = "a model, or a run over one"});
  const fs::path folder = io::resolve_model(run ? train::read_recipe_file(fs::path(name) / "recipe.toml").backbone.main : name);
  opened.model = backbones::open_multimodal_lm(folder, storage);
  opened.text = std::make_unique<backbones::MultimodalText>(backbones::MultimodalText::open(folder, *opened.model));
  const backbones::MultimodalInfo& info = opened.model->multimodal();
  if (info.image_height != info.image_width)
    throw Error({.what = "a visual prompt needs a model that is shown square pictures",
                 .where = folder.string(),
                 .got = std::to_string(info.image_width) + " x " + std::to_string(info.image_height)});
  opened.side = info.image_height;
  opened.norm = {info.mean, info.std};
  opened.fingerprint = io::backbone_fingerprint(io::Checkpoint::open(folder));
  if (run) opened.attach_experts(name);
  return opened;
}

void PromptedModel::attach_experts(const fs::path& run) {
  const train::RunFolder opened = train::RunFolder::open(run);
  const Json record = opened.read_record();
  if (!fs::exists(opened.head()))
    throw Error({.what = "this run has no expert yet", .where = run.string(), .hint = "finish it with mmtune train … --resume"});
  const std::string backbone = fingerprint;
  try {
    for (const Json& entry : record.at("experts")) {
      if (entry.at("kind").get<std::string>() == "visual_prompt") continue;
      const fs::path folder = run / entry.at("folder").get<std::string>();
      experts.push_back(experts::load_expert(folder, *model, backbone));
      for (const nn::NamedTensor& one : experts.back()->tensors()) at::Tensor(one.tensor).requires_grad_(false);
      experts.back()->before_pass({});
      fingerprint += "+" + Fingerprint().add_field(read_file(folder / "adapter_model.safetensors")).hex();
    }
  } catch (const Json::exception&) {
    throw Error({.what = "the run's record is damaged", .where = opened.record().string()});
  }
}

std::optional<at::Tensor> candidate_scores(const PromptedModel& model, const Questions& questions, const data::Dataset& dataset,
                                           const ScoreRequest& request) {
  const at::NoGradGuard no_grad;
  const experts::PromptShape shape = shape_of(request);
  const auto count = static_cast<std::int64_t>(dataset.examples.size());
  const std::int64_t batches = (count + request.batch - 1) / request.batch;
  const auto read = [&](std::int64_t number) {
    ShownBatch batch;
    std::vector<at::Tensor> pictures;
    for (std::int64_t i = number * request.batch; i < std::min((number + 1) * request.batch, count); ++i) {
      const data::Example& example = dataset.examples[static_cast<std::size_t>(i)];
      pictures.push_back(framed_picture(read_picture(example), shape.image, shape.frame));
      batch.examples.push_back(i);
    }
    batch.pictures = at::stack(pictures);
    return batch;
  };
  data::Prefetcher<ShownBatch> loader(0, batches, read, request.workers, 2 + request.workers);
  at::Generator places = at::detail::createCPUGenerator(request.seed);
  nn::Context context;
  context.matmul_precision = request.matmul_precision;
  std::optional<Progress> progress;
  if (!request.label.empty()) progress.emplace(request.label, count, "examples");
  std::vector<at::Tensor> rows;
  std::int64_t done = 0;
  while (std::optional<ShownBatch> batch = loader.next()) {
    if (request.stop && request.stop()) return std::nullopt;
    const bool prompted = request.shown == ShownPicture::prompted && request.prompt != nullptr;
    const at::Tensor pixels = prompted ? request.prompt->input(batch->pictures, model.norm, model.side, request.prompt->draw_place(places))
                                       : experts::clean_input(batch->pictures, model.norm, model.side);
    const std::vector<backbones::Instruction> instructions = questions.instructions(dataset, batch->examples);
    const backbones::VisualTokens visual = model.model->encode(pixels, instructions, context);
    rows.push_back(model.model->candidate_scores(visual.tokens, instructions, questions.candidates(), request.score, context).cpu());
    done += static_cast<std::int64_t>(batch->examples.size());
    if (progress) progress->update(done);
  }
  return rows.empty() ? at::empty({0, static_cast<std::int64_t>(questions.candidates().size())}) : at::cat(rows);
}

std::vector<report::Metric> judge(PromptTask task, const at::Tensor& scores, const data::Dataset& dataset,
                                  const std::optional<report::BootstrapOptions>& bootstrap) {
  const auto examples = static_cast<std::size_t>(scores.size(0)), classes = static_cast<std::size_t>(scores.size(1));
  MMTUNE_ASSERT(examples == dataset.examples.size() && classes == dataset.classes.size());
  // A softmax keeps the order of an example's candidates, and makes of two scores a number that their difference orders.
  const at::Tensor shares = scores.to(at::kDouble).softmax(1).contiguous();
  report::Scores table{.examples = examples, .classes = classes};
  table.scores.assign(shares.const_data_ptr<double>(), shares.const_data_ptr<double>() + shares.numel());
  for (const data::Example& example : dataset.examples) table.truth.push_back(example.labels.front());
  const std::vector<std::int64_t> predicted = report::argmax(table);

  std::vector<report::Metric> metrics;
  std::vector<report::Statistic> statistics;
  const auto add = [&](const std::string& name, const report::Statistic& statistic, bool higher_is_better = true) {
    metrics.push_back({.name = name, .value = statistic({}), .higher_is_better = higher_is_better});
    statistics.push_back(statistic);
  };
  add("accuracy", [&](report::Weights weights) { return report::accuracy(predicted, table.truth, weights); });
  if (classes > 5) add("top5", [&](report::Weights weights) { return report::top_k_accuracy(table, 5, weights); });
  std::vector<double> errors;
  if (task == PromptTask::count) {
    for (std::size_t i = 0; i < examples; ++i)
      errors.push_back(std::abs(number_of(dataset.classes[static_cast<std::size_t>(predicted[i])]) -
                                number_of(dataset.classes[static_cast<std::size_t>(table.truth[i])])));
    add(
        "mean_absolute_error", [&](report::Weights weights) { return report::mean(errors, weights); }, false);
  }
  if (task == PromptTask::yes_no || task == PromptTask::detect) {
    MMTUNE_ASSERT(classes == 2);  // Questions refuses others
    // The second class is "yes".
    const std::vector<std::uint8_t> answered(predicted.begin(), predicted.end()), truth(table.truth.begin(), table.truth.end());
    const auto add_share = [&](const char* name, double report::YesNo::*share) {
      add(name, [=](report::Weights weights) { return report::summarise_yes_no(answered, truth, weights).*share; });
    };
    add_share("precision", &report::YesNo::precision);
    add_share("recall", &report::YesNo::recall);
    add_share("f1", &report::YesNo::f1);
    add_share("yes_ratio", &report::YesNo::yes_ratio);
  }
  std::optional<report::RocAuc> area;
  if (task == PromptTask::detect) {
    area.emplace(table);
    add("auc", [&](report::Weights weights) { return (*area)(weights); });
  }
  if (bootstrap && examples > 0) {
    const std::vector<report::Interval> intervals = report::bootstrap(examples, statistics, *bootstrap);
    for (std::size_t i = 0; i < metrics.size(); ++i) metrics[i].interval = intervals[i];
  }
  if (examples > 0) {
    const at::Tensor right = scores.gather(1, at::tensor(table.truth, at::kLong).unsqueeze(1));
    metrics.push_back({.name = "mean_score", .value = scores.mean().item<double>()});
    metrics.push_back({.name = "mean_score_of_truth", .value = right.mean().item<double>()});
  }
  return metrics;
}

}  // namespace mmtune::methods
