#pragma once
// The task `retrieve`: which of many pictures belongs to a text, and which of many texts to a picture.

#include <map>
#include <string>
#include <vector>

#include "report/recall.h"
#include "train/evaluate.h"
#include "train/task.h"

namespace mmtune::train {

/// Every example is a picture with one of its texts; examples with the same picture are that picture's texts.
///
/// Two towers (head.kind = "similarity"): the cosines of a batch's pictures with its texts, times a learned number; the loss is the mean
/// of both ways' cross-entropies, and what belongs together by another example of the batch counts for neither.
/// One backbone that reads both: each example's picture is scored with its own text and with `negatives` others, drawn from all texts
/// that are not the picture's; the loss is the cross-entropy of their scores. With `matching` > 0 a second output of the head learns
/// whether a pair belongs together: the mean of the binary cross-entropies of the true pair and of the first false one, times `matching`,
/// is added. (METER draws for every example whether it is scored with its own picture or with another; that is this loss's expectation,
/// over pairs that are scored here anyway.)
class Retrieve final : public Task {
 public:
  /// `together`: one backbone reads both.
  Retrieve(std::int64_t negatives, bool together, double matching = 0.0)
      : negatives_(negatives), together_(together), matching_(matching) {}
  /// Throws Error where the data has fewer than two pictures with texts, UsageError where two towers are to be matched.
  static std::unique_ptr<Retrieve> for_training(const Recipe& recipe, const data::Dataset& train);

  std::string_view name() const override { return "retrieve"; }
  std::int64_t outputs() const override { return matching_ > 0 ? 2 : 1; }
  double weight(const data::Dataset& dataset, std::span<const std::int64_t> examples) const override;
  at::Tensor loss(const at::Tensor& logits, const data::Dataset& dataset, std::span<const std::int64_t> examples) const override;
  std::unique_ptr<Scorer> scorer() const override;
  std::vector<Prediction> predict(const at::Tensor& logits, std::int64_t top) const override;
  std::vector<std::string> metric_names() const override { return report::recall_names(); }
  const std::vector<std::string>& classes() const override { return none_; }
  Json describe() const override;
  bool labelled() const override { return false; }
  bool learns_from(const data::Example& example) const override { return example.image.has_value() && example.text.has_value(); }
  std::optional<data::Dataset> arranged(const data::Dataset& dataset, std::span<const std::int64_t> examples,
                                        std::uint64_t seed) const override;
  bool pairs_anew() const override { return together_; }
  bool together() const { return together_; }

 private:
  std::int64_t negatives_;
  bool together_;
  double matching_;
  std::vector<std::string> none_;
};

/// The distinct pictures and texts of a data set, in order of first appearance.
struct Gallery {
  std::vector<std::int64_t> pictures;    ///< an example that has it
  std::vector<std::int64_t> texts;       ///< an example that has it, one entry for a text of each picture
  std::vector<std::int64_t> picture_of;  ///< of each text: an index into `pictures`
};
/// Throws Error where no example has both.
Gallery gallery_of(const data::Dataset& dataset);

/// Scores [pictures, texts] of all pairs. Two towers: each picture and each text is encoded once. One backbone: every pair passes through
/// it, a picture being decoded and a text split into tokens once. `stop` ends it early with an undefined tensor.
at::Tensor score_all(const Model& model, const data::Dataset& dataset, const Gallery& gallery, const ForwardOptions& options);

/// evaluate() for this task.
std::optional<Evaluation> evaluate_retrieval(const Model& model, const data::Dataset& dataset, const ForwardOptions& options,
                                             const std::optional<report::BootstrapOptions>& bootstrap);

}  // namespace mmtune::train
