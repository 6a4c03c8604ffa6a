#include "train/classify.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "nn/layout.h"

namespace mmtune::train {

namespace {

at::Tensor as_tensor(const std::vector<double>& values) {
  return values.empty() ? at::Tensor() : at::tensor(values, at::kDouble).to(at::kFloat);
}

const data::Example& example_at(const data::Dataset& dataset, std::int64_t index) {
  return dataset.examples[static_cast<std::size_t>(index)];
}

class ClassifyScorer final : public Scorer {
 public:
  ClassifyScorer(std::vector<std::string> classes, bool multi_label, double threshold)
      : classes_(std::move(classes)), multi_label_(multi_label), threshold_(threshold) {
    scores_.classes = classes_.size();
  }

  void add(const at::Tensor& logits, const data::Dataset& dataset, std::span<const std::int64_t> examples) override {
    const at::Tensor wide = logits.to(at::kCPU).to(at::kDouble);
    const at::Tensor scores = (multi_label_ ? wide.sigmoid() : wide.softmax(1)).contiguous();
    const at::Tensor logs = (multi_label_ ? at::log_sigmoid(wide) : wide.log_softmax(1)).contiguous();
    const at::Tensor other_logs = multi_label_ ? at::log_sigmoid(-wide).contiguous() : at::Tensor();
    const auto* score = scores.data_ptr<double>();
    scores_.scores.insert(scores_.scores.end(), score, score + scores.numel());
    for (std::size_t i = 0; i < examples.size(); ++i) {
      const std::vector<std::int64_t>& labels = example_at(dataset, examples[i]).labels;
      const double* log = logs.data_ptr<double>() + i * classes_.size();
      if (!multi_label_) {
        scores_.truth.push_back(labels.at(0));
        scores_.losses.push_back(-log[labels[0]]);
        continue;
      }
      const std::size_t begin = scores_.truth_bits.size();
      scores_.truth_bits.resize(begin + classes_.size(), 0);
      for (const std::int64_t label : labels) scores_.truth_bits[begin + static_cast<std::size_t>(label)] = 1;
      const double* other = other_logs.data_ptr<double>() + i * classes_.size();
      double loss = 0;
      for (std::size_t c = 0; c < classes_.size(); ++c) loss -= scores_.truth_bits[begin + c] != 0 ? log[c] : other[c];
      scores_.losses.push_back(loss / static_cast<double>(classes_.size()));
    }
    scores_.examples += examples.size();
  }

  std::vector<report::Metric> metrics(const std::optional<report::BootstrapOptions>& bootstrap) const override {
    return report::evaluate(scores_, {.threshold = threshold_, .bootstrap = bootstrap});
  }

  Json details() const override {
    Json details;
    details["classes"] = classes_;
    if (multi_label_) {
      details["f1_per_class"] = report::f1_multi(scores_, threshold_).per_class;
      return details;
    }
    const auto confusion = report::confusion_matrix(report::argmax(scores_), scores_.truth, classes_.size());
    details["f1_per_class"] = report::f1_single(confusion, classes_.size()).per_class;
    Json rows = Json::array();
    for (std::size_t t = 0; t < classes_.size(); ++t) {
      const auto begin = confusion.begin() + static_cast<std::ptrdiff_t>(t * classes_.size());
      rows.push_back(std::vector<std::uint64_t>(begin, begin + static_cast<std::ptrdiff_t>(classes_.size())));
    }
    details["confusion"] = std::move(rows);  // row: truth, column: prediction
    return details;
  }

 private:
  std::vector<std::string> classes_;
  bool multi_label_;
  double threshold_;
  report::Scores scores_;
};

/// Inverse frequencies with mean 1 over the classes that occur; 1 for those that do not.
std::vector<double> balanced_weights(const std::vector<double>& counts) {
  const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
  const auto occurring = static_cast<double>(std::count_if(counts.begin(), counts.end(), [](double n) { return n > 0; }));
  std::vector<double> weights;
  for (const double count : counts) weights.push_back(count > 0 ? total / (occurring * count) : 1.0);
  return weights;
}

}  // namespace

Classify::Classify(std::vector<std::string> classes, bool multi_label, double threshold, double label_smoothing,
                   std::vector<double> class_weights, const std::vector<double>& positive_weights)
    : classes_(std::move(classes)),
      multi_label_(multi_label),
      threshold_(threshold),
      label_smoothing_(label_smoothing),
      class_weights_(std::move(class_weights)),
      weight_tensor_(as_tensor(class_weights_)),
      positive_tensor_(as_tensor(positive_weights)) {
  MMTUNE_ASSERT(class_weights_.empty() || class_weights_.size() == classes_.size());
}

std::unique_ptr<Classify> Classify::for_training(const Recipe& recipe, const data::Dataset& train) {
  const std::size_t count = train.classes.size();
  if (count < 2 && !train.multi_label)
    throw Error({.what = "nothing to tell apart",
                 .where = train.source,
                 .expected = "at least two classes",
                 .got = std::to_string(count),
                 .hint = "labels come from the field \"label\"; data.columns can name another"});
  if (count == 0) throw Error({.what = "no labels", .where = train.source, .hint = "map the field with data.columns.labels"});
  const LossSection& loss = recipe.loss;
  if (!loss.class_weights.empty() && loss.class_weights.size() != count)
    throw UsageError({.what = "one weight a class is needed",
                      .where = "loss.class_weights",
                      .expected = std::to_string(count) + " numbers",
                      .got = std::to_string(loss.class_weights.size())});
  std::vector<double> weights = loss.class_weights, positive;
  if (loss.balanced) {
    std::vector<double> counts(count, 0.0);
    for (const data::Example& example : train.examples)
      for (const std::int64_t label : example.labels) ++counts[static_cast<std::size_t>(label)];
    if (train.multi_label) {
      const auto all = static_cast<double>(train.examples.size());
      for (const double n : counts) positive.push_back(n > 0 && n < all ? (all - n) / n : 1.0);
    } else {
      weights = balanced_weights(counts);
    }
  }
  auto task = std::make_unique<Classify>(train.classes, train.multi_label, recipe.eval.threshold, loss.label_smoothing, std::move(weights),
                                         std::move(positive));
  task->name_ = recipe.task;
  return task;
}

double Classify::weight(const data::Dataset& dataset, std::span<const std::int64_t> examples) const {
  if (multi_label_ || class_weights_.empty()) return static_cast<double>(examples.size());
  double total = 0;
  for (const std::int64_t index : examples) total += class_weights_[static_cast<std::size_t>(example_at(dataset, index).labels.at(0))];
  return total;
}

at::Tensor Classify::single_targets(const data::Dataset& dataset, std::span<const std::int64_t> examples) const {
  at::Tensor targets = at::empty({static_cast<std::int64_t>(examples.size())}, at::kLong);
  std::transform(examples.begin(), examples.end(), targets.data_ptr<std::int64_t>(),
                 [&](std::int64_t index) { return example_at(dataset, index).labels.at(0); });
  return targets;
}

at::Tensor Classify::multi_targets(const data::Dataset& dataset, std::span<const std::int64_t> examples) const {
  at::Tensor targets = at::zeros({static_cast<std::int64_t>(examples.size()), outputs()}, at::kFloat);
  auto* out = targets.data_ptr<float>();
  for (const std::int64_t index : examples) {
    for (const std::int64_t label : example_at(dataset, index).labels) out[label] = 1.0F;
    out += outputs();
  }
  return targets;
}

/// Targets: class numbers [B], or one row of zeros and ones an example.
at::Tensor Classify::loss_against(const at::Tensor& logits, const at::Tensor& targets) const {
  const auto optional = [&](const at::Tensor& tensor) {
    return tensor.defined() ? std::optional<at::Tensor>(nn::beside(tensor, logits)) : std::nullopt;
  };
  if (!multi_label_) return at::cross_entropy_loss(logits, targets, optional(weight_tensor_), at::Reduction::Sum, -100, label_smoothing_);
  return at::binary_cross_entropy_with_logits(logits, targets * (1.0 - label_smoothing_) + 0.5 * label_smoothing_, optional(weight_tensor_),
                                              optional(positive_tensor_), at::Reduction::Sum) /
         static_cast<double>(outputs());
}

at::Tensor Classify::loss(const at::Tensor& logits, const data::Dataset& dataset, std::span<const std::int64_t> examples) const {
  const at::Tensor targets = multi_label_ ? multi_targets(dataset, examples) : single_targets(dataset, examples);
  return loss_against(logits, nn::beside(targets, logits));
}

at::Tensor Classify::sampled_loss(const at::Tensor& logits, const at::Generator& generator) const {
  const at::Tensor answers = logits.detach();
  if (multi_label_) return loss_against(logits, at::bernoulli(answers.sigmoid(), generator));
  return loss_against(logits, at::multinomial(answers.softmax(1), 1, true, generator).squeeze(1));
}

std::unique_ptr<Scorer> Classify::scorer() const {
  return std::make_unique<ClassifyScorer>(classes_, multi_label_, threshold_);
}

std::vector<Prediction> Classify::predict(const at::Tensor& logits, std::int64_t top) const {
  const at::Tensor wide = logits.to(at::kCPU).to(at::kDouble);
  const at::Tensor scores = (multi_label_ ? wide.sigmoid() : wide.softmax(1)).contiguous();
  const auto count = static_cast<std::size_t>(std::clamp<std::int64_t>(top, 1, outputs()));
  std::vector<Prediction> predictions;
  for (std::int64_t i = 0; i < scores.size(0); ++i) {
    const double* row = scores.data_ptr<double>() + i * outputs();
    std::vector<std::size_t> order(classes_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return row[a] > row[b]; });
    Prediction prediction;
    for (std::size_t k = 0; k < count; ++k) prediction.top.push_back({classes_[order[k]], row[order[k]]});
    if (!multi_label_) {
      prediction.labels = {classes_[order[0]]};
    } else {
      for (const std::size_t c : order)
        if (row[c] >= threshold_) prediction.labels.push_back(classes_[c]);
    }
    predictions.push_back(std::move(prediction));
  }
  return predictions;
}

std::vector<std::string> Classify::metric_names() const {
  std::vector<std::string> names = report::metric_names(multi_label_);
  const auto first = std::find(names.begin(), names.end(), multi_label_ ? "macro_f1" : "accuracy");
  MMTUNE_ASSERT(first != names.end());
  std::rotate(names.begin(), first, first + 1);
  if (classes_.size() <= 5) std::erase(names, "top5");  // always 1, and not computed
  return names;
}

std::unique_ptr<Classify> Classify::described(const Recipe& recipe, const Json& description, const std::string& where) {
  const auto classes = description.at("classes").get<std::vector<std::string>>();
  if (classes.empty()) throw Error({.what = "not a classification", .where = where});
  auto task = std::make_unique<Classify>(classes, description.at("multi_label").get<bool>(), recipe.eval.threshold);
  task->name_ = description.at("task").get<std::string>();
  return task;
}

Json Classify::describe() const {
  return {{"task", name_}, {"classes", classes_}, {"multi_label", multi_label_}};
}

}  // namespace mmtune::train
