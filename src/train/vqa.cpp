#include "train/vqa.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/log.h"
#include "nn/layout.h"

namespace mmtune::train {

namespace {

class VqaScorer final : public Scorer {
 public:
  explicit VqaScorer(const Vqa& task) : task_(task) {}

  void add(const at::Tensor& logits, const data::Dataset& dataset, std::span<const std::int64_t> examples) override {
    const at::Tensor wide = logits.to(at::kCPU).to(at::kDouble), targets = task_.targets(dataset, examples).to(at::kDouble);
    const at::Tensor scores = targets.gather(1, wide.argmax(1, true)).contiguous(), losses = task_.losses(wide, targets).contiguous();
    scores_.insert(scores_.end(), scores.const_data_ptr<double>(), scores.const_data_ptr<double>() + scores.numel());
    losses_.insert(losses_.end(), losses.const_data_ptr<double>(), losses.const_data_ptr<double>() + losses.numel());
    unlisted_ += targets.sum(1).eq(0).sum().item<std::int64_t>();
  }

  std::vector<report::Metric> metrics(const std::optional<report::BootstrapOptions>& bootstrap) const override {
    const report::Statistic statistics[] = {[this](report::Weights weights) { return report::mean(scores_, weights); },
                                            [this](report::Weights weights) { return report::mean(losses_, weights); }};
    std::vector<report::Metric> metrics = {{"vqa_accuracy", statistics[0]({}), std::nullopt, true},
                                           {"loss", statistics[1]({}), std::nullopt, false}};
    if (!bootstrap) return metrics;
    const std::vector<report::Interval> intervals = report::bootstrap(scores_.size(), statistics, *bootstrap);
    for (std::size_t i = 0; i < metrics.size(); ++i) metrics[i].interval = intervals[i];
    return metrics;
  }

  Json details() const override { return {{"answers", task_.outputs()}, {"examples_without_a_listed_answer", unlisted_}}; }

 private:
  const Vqa& task_;
  std::vector<double> scores_, losses_;
  std::int64_t unlisted_ = 0;
};

}  // namespace

std::unique_ptr<Vqa> Vqa::for_training(const Recipe& recipe, const data::Dataset& train) {
  // Labels that rows may have besides are no list of answers.
  const bool listed = !recipe.data.classes.empty() || !recipe.data.classes_file.empty();
  auto task = std::make_unique<Vqa>(listed ? data::AnswerSpace(train.classes, recipe.vqa.normalise)
                                           : data::AnswerSpace::of(train, recipe.vqa.min_count, recipe.vqa.normalise),
                                    recipe.vqa.loss);
  if (std::none_of(train.examples.begin(), train.examples.end(), [&](const data::Example& one) { return task->learns_from(one); }))
    throw Error(
        {.what = "no training example has an answer of the list",
         .where = train.source,
         .expected = "answers such as \"" + printable(task->classes().front()) + "\"",
         .got = train.examples.front().answers.empty() ? "no answers" : "\"" + printable(train.examples.front().answers.front()) + "\""});
  return task;
}

double Vqa::weight(const data::Dataset&, std::span<const std::int64_t> examples) const {
  return static_cast<double>(examples.size());
}

at::Tensor Vqa::targets(const data::Dataset& dataset, std::span<const std::int64_t> examples) const {
  at::Tensor targets = at::zeros({static_cast<std::int64_t>(examples.size()), outputs()}, at::kFloat);
  auto* row = targets.data_ptr<float>();
  for (const std::int64_t index : examples) {
    for (const data::AnswerScore& one : space_.scores(dataset.examples[static_cast<std::size_t>(index)]))
      row[one.answer] = static_cast<float>(one.score);
    row += outputs();
  }
  return targets;
}

std::vector<std::int64_t> Vqa::truth(const data::Example& example) const {
  const std::optional<data::AnswerScore> best = space_.best(example);
  return best ? std::vector<std::int64_t>{best->answer} : std::vector<std::int64_t>();
}

at::Tensor Vqa::losses(const at::Tensor& logits, const at::Tensor& targets) const {
  if (loss_ == VqaLoss::binary) return at::binary_cross_entropy_with_logits(logits, targets, {}, {}, at::Reduction::None).sum(1);
  const at::Tensor shares = targets / targets.sum(1, true).clamp_min(1e-12);
  return -(shares * logits.log_softmax(1)).sum(1);
}

at::Tensor Vqa::loss(const at::Tensor& logits, const data::Dataset& dataset, std::span<const std::int64_t> examples) const {
  return losses(logits, nn::beside(targets(dataset, examples), logits)).sum();
}

std::unique_ptr<Scorer> Vqa::scorer() const {
  return std::make_unique<VqaScorer>(*this);
}

std::vector<Prediction> Vqa::predict(const at::Tensor& logits, std::int64_t top) const {
  const at::Tensor wide = logits.to(at::kCPU).to(at::kDouble);
  const at::Tensor scores = loss_ == VqaLoss::binary ? wide.sigmoid() : wide.softmax(1);
  const auto [best, order] = scores.topk(std::clamp<std::int64_t>(top, 1, outputs()), 1);
  std::vector<Prediction> predictions;
  for (std::int64_t i = 0; i < best.size(0); ++i) {
    Prediction prediction;
    for (std::int64_t k = 0; k < best.size(1); ++k)
      prediction.top.push_back({space_.answers()[static_cast<std::size_t>(order[i][k].item<std::int64_t>())], best[i][k].item<double>()});
    prediction.labels = {prediction.top.front().label};
    predictions.push_back(std::move(prediction));
  }
  return predictions;
}

Json Vqa::describe() const {
  return {{"task", "vqa"},
          {"classes", space_.answers()},
          {"normalise", space_.normalises()},
          {"loss", loss_ == VqaLoss::binary ? "binary" : "softmax"}};
}

}  // namespace mmtune::train
