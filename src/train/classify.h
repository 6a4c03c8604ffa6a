#pragma once
// The task `classify`: one label of a list, or any number of them; and the task `pair`, the same of two pictures.

#include <string>
#include <vector>

#include "train/task.h"

namespace mmtune::train {

/// Cross-entropy over a softmax with label smoothing and class weights; multi-label: the mean over classes of binary cross-entropies.
class Classify final : public Task {
 public:
  /// `class_weights` empty: all 1. `positive_weights` (multi-label only) weigh an example's own labels against those that it lacks.
  Classify(std::vector<std::string> classes, bool multi_label, double threshold, double label_smoothing = 0.0,
           std::vector<double> class_weights = {}, const std::vector<double>& positive_weights = {});
  /// Weights as the recipe's [loss] asks for them, by the label frequencies of the training data.
  static std::unique_ptr<Classify> for_training(const Recipe& recipe, const data::Dataset& train);

  std::string_view name() const override { return name_; }
  std::int64_t outputs() const override { return static_cast<std::int64_t>(classes_.size()); }
  double weight(const data::Dataset& dataset, std::span<const std::int64_t> examples) const override;
  at::Tensor loss(const at::Tensor& logits, const data::Dataset& dataset, std::span<const std::int64_t> examples) const override;
  at::Tensor sampled_loss(const at::Tensor& logits, const at::Generator& generator) const override;
  std::unique_ptr<Scorer> scorer() const override;
  std::vector<Prediction> predict(const at::Tensor& logits, std::int64_t top) const override;
  std::vector<std::string> metric_names() const override;
  Json describe() const override;

  const std::vector<std::string>& classes() const override { return classes_; }
  bool multi_label() const { return multi_label_; }
  /// From a run's record.
  static std::unique_ptr<Classify> described(const Recipe& recipe, const Json& description, const std::string& where);

 private:
  at::Tensor loss_against(const at::Tensor& logits, const at::Tensor& targets) const;
  at::Tensor single_targets(const data::Dataset& dataset, std::span<const std::int64_t> examples) const;
  at::Tensor multi_targets(const data::Dataset& dataset, std::span<const std::int64_t> examples) const;

  std::string name_ = "classify";
  std::vector<std::string> classes_;
  bool multi_label_;
  double threshold_;
  double label_smoothing_;
  std::vector<double> class_weights_;
  at::Tensor weight_tensor_, positive_tensor_;
};

}  // namespace mmtune::train
