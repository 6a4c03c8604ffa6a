#pragma once
// The task `vqa`: one answer of a list to a question about a picture, learned from what several annotators said.

#include <string>
#include <vector>

#include "data/vqa_answers.h"
#include "train/task.h"

namespace mmtune::train {

/// The loss of an example is the sum over all answers of binary cross-entropies with soft scores as targets (the mean times the number of
/// answers), or with loss = "softmax" the cross-entropy against the scores divided by their sum. The metric is the mean soft score of the
/// best answer.
class Vqa final : public Task {
 public:
  Vqa(data::AnswerSpace space, VqaLoss loss) : space_(std::move(space)), loss_(loss) {}
  /// Answers: data.classes, or those that are common in the training data. Throws Error where the training data has none of them.
  static std::unique_ptr<Vqa> for_training(const Recipe& recipe, const data::Dataset& train);

  std::string_view name() const override { return "vqa"; }
  std::int64_t outputs() const override { return static_cast<std::int64_t>(space_.answers().size()); }
  double weight(const data::Dataset& dataset, std::span<const std::int64_t> examples) const override;
  at::Tensor loss(const at::Tensor& logits, const data::Dataset& dataset, std::span<const std::int64_t> examples) const override;
  std::unique_ptr<Scorer> scorer() const override;
  std::vector<Prediction> predict(const at::Tensor& logits, std::int64_t top) const override;
  std::vector<std::string> metric_names() const override { return {"vqa_accuracy", "loss"}; }
  const std::vector<std::string>& classes() const override { return space_.answers(); }
  Json describe() const override;
  bool labelled() const override { return false; }
  /// The answer that scores most, the first of equals.
  std::vector<std::int64_t> truth(const data::Example& example) const override;
  /// An example none of whose answers is listed teaches nothing.
  bool learns_from(const data::Example& example) const override { return !space_.scores(example).empty(); }

  /// [B, answers]: soft scores.
  at::Tensor targets(const data::Dataset& dataset, std::span<const std::int64_t> examples) const;
  /// [B] losses against `targets`.
  at::Tensor losses(const at::Tensor& logits, const at::Tensor& targets) const;

 private:
  data::AnswerSpace space_;
  VqaLoss loss_;
};

}  // namespace mmtune::train
