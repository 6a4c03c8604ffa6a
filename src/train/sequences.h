#pragma once
// Tasks whose answers are sequences: caption (a sentence about a picture), ground (the box that a text means), generate (a label or an
// answer, as text). The backbone learns with teacher forcing and answers by beam search or by ranking a list; there is no head.

#include <memory>
#include <string>
#include <vector>

#include "train/task.h"
#include "train/wording.h"

namespace mmtune::train {

class Model;

class Sequences final : public Task {
 public:
  struct Shape {
    std::string task;
    AnswerKind kind = AnswerKind::words;
    std::vector<std::string> classes;  ///< labels, or the list of answers
    bool normalise = true;             ///< how annotators' answers are looked up in the list
  };
  Sequences(Shape shape, double label_smoothing);
  /// Throws Error on data that cannot be learned from: neither labels nor answers, no answer of the list.
  static std::unique_ptr<Sequences> for_training(const Recipe& recipe, const data::Dataset& train);
  static std::unique_ptr<Sequences> described(const Recipe& recipe, const Json& description);

  /// Makes the model's main tower speak; to be called before anything else below. Throws UsageError where the backbone does not write.
  void attach(const Recipe& recipe, Model& model);
  const Wording& wording() const { return *wording_; }
  void set_label_smoothing(double smoothing) { label_smoothing_ = smoothing; }
  /// Training examples with several captions, one for each.
  data::Dataset spread(data::Dataset train) const;

  std::string_view name() const override { return shape_.task; }
  AnswerKind kind() const { return shape_.kind; }
  std::int64_t outputs() const override { return 0; }
  /// Tokens to learn.
  double weight(const data::Dataset& dataset, std::span<const std::int64_t> examples) const override;
  /// `logits` [N, V] of Model::forward.
  at::Tensor loss(const at::Tensor& logits, const data::Dataset& dataset, std::span<const std::int64_t> examples) const override;
  at::Tensor sampled_loss(const at::Tensor& logits, const at::Generator& generator) const override;
  /// Summed negative log-likelihood of every example's answer, without smoothing.
  std::vector<double> plain_losses(const at::Tensor& logits, const data::Dataset& dataset, std::span<const std::int64_t> examples) const;
  /// Throws UsageError, as predict() does: of answers in words there are no scores in one tensor (train/sequence_answers.h judges them).
  std::unique_ptr<Scorer> scorer() const override;
  std::vector<Prediction> predict(const at::Tensor& logits, std::int64_t top) const override;
  std::vector<std::string> metric_names() const override;
  const std::vector<std::string>& classes() const override { return shape_.classes; }
  bool labelled() const override { return shape_.kind == AnswerKind::label; }
  bool learns_from(const data::Example& example) const override;
  Json describe() const override;

 private:
  struct Lessons;
  Lessons lessons(const at::Tensor& logits, const data::Dataset& dataset, std::span<const std::int64_t> examples) const;

  Shape shape_;
  double label_smoothing_;
  std::shared_ptr<const data::AnswerSpace> space_;
  std::shared_ptr<const Wording> wording_;
};

}  // namespace mmtune::train
