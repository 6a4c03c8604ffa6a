#pragma once
// Metrics of classification, in double precision and without tensors. Every function takes optional integer weights (how often each
// example counts), so that a bootstrap replicate is a vector of weights and nothing is copied or sorted again.

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace mmtune::report {

/// How often each example counts; empty: once each.
using Weights = std::span<const std::uint32_t>;

/// Scores of N examples for C classes, row-major. Single-label: `truth` holds N class indices and `scores` probabilities of a softmax.
/// Multi-label: `truth` is unused, `truth_bits` holds N × C zeros and ones and `scores` are independent probabilities.
struct Scores {
  std::size_t examples = 0;
  std::size_t classes = 0;
  std::vector<double> scores;
  std::vector<std::int64_t> truth;
  std::vector<std::uint8_t> truth_bits;
  std::vector<double> losses;  ///< one an example; empty: no loss is reported
  bool multi_label() const { return !truth_bits.empty(); }
  std::span<const double> row(std::size_t example) const { return {scores.data() + example * classes, classes}; }
};

/// Index of the largest score of each example; the first of equals. NaN never wins.
std::vector<std::int64_t> argmax(const Scores& scores);

/// Share of examples whose prediction is right. 0 examples: NaN (so everywhere below).
double accuracy(std::span<const std::int64_t> predicted, std::span<const std::int64_t> truth, Weights weights = {});

/// Share of examples whose true class is among the k largest scores; of equal scores the lower index counts as larger.
double top_k_accuracy(const Scores& scores, std::size_t k, Weights weights = {});

/// counts[t * C + p]: examples of class t that were predicted as p.
std::vector<std::uint64_t> confusion_matrix(std::span<const std::int64_t> predicted, std::span<const std::int64_t> truth,
                                            std::size_t classes, Weights weights = {});

struct F1 {
  double macro = 0;  ///< mean over classes that occur in the truth or among the predictions (multi-label: over all classes)
  double micro = 0;  ///< of the summed counts; for single-label data this is the accuracy
  std::vector<double> per_class;
};
/// F1 = 2·TP / (2·TP + FP + FN), 0 where that is 0/0.
F1 f1_single(std::span<const std::uint64_t> confusion, std::size_t classes);
/// A label is predicted where its score is at least `threshold`.
F1 f1_multi(const Scores& scores, double threshold = 0.5, Weights weights = {});

/// Area under the ROC curve: the chance that a positive scores above a negative, ties counting half. Multi-class and multi-label: the mean
/// over classes of one against the rest, classes without both kinds left out; two single-label classes: of class 1.
/// NaN when no class has both kinds. Sorting happens once, in the constructor.
class RocAuc {
 public:
  explicit RocAuc(const Scores& scores);
  double operator()(Weights weights = {}) const;

 private:
  struct Column {
    std::vector<std::uint32_t> order;     ///< examples by ascending score
    std::vector<std::uint8_t> new_value;  ///< 1 where order[i] scores above order[i - 1]
    std::vector<std::uint8_t> positive;   ///< by position in `order`
  };
  std::vector<Column> columns_;
  std::size_t examples_;
};

/// Expected calibration error of the top prediction: |confidence − accuracy| averaged over equal-width bins of the confidence, weighted
/// by their share (Guo et al. 2017).
double expected_calibration_error(const Scores& scores, std::size_t bins = 15, Weights weights = {});

/// Mean of one value an example.
double mean(std::span<const double> values, Weights weights = {});

struct Interval {
  double low = 0;
  double high = 0;
  std::vector<double> replicates = {};  ///< their values in the order of drawing, where BootstrapOptions::keep asks for them
};
struct BootstrapOptions {
  std::size_t replicates = 1000;
  double level = 0.95;
  std::uint64_t seed = 0;
  bool keep = false;
};
/// Percentile bootstrap (Efron): each replicate draws N examples with replacement. All statistics see the same replicates. A replicate
/// whose value is NaN is left out; an interval with no values is NaN.
using Statistic = std::function<double(Weights)>;
std::vector<Interval> bootstrap(std::size_t examples, std::span<const Statistic> statistics, const BootstrapOptions& options = {});
/// Paired bootstrap: the interval of one statistic less another, of the same examples in the same order, from kept replicates.
Interval difference(const Interval& one, const Interval& other, double level = 0.95);

/// A metric with its confidence interval.
struct Metric {
  std::string name;
  double value = 0;
  std::optional<Interval> interval;
  bool higher_is_better = true;
};
struct EvaluateOptions {
  double threshold = 0.5;  ///< of a multi-label decision
  std::optional<BootstrapOptions> bootstrap = BootstrapOptions{};
};
/// Everything at once. Single-label: accuracy, top5 (with more than five classes), macro_f1, micro_f1, auc, ece, loss. Multi-label:
/// exact_match (all labels right), macro_f1, micro_f1, auc, loss. Loss only where given; auc only where it is defined.
std::vector<Metric> evaluate(const Scores& scores, const EvaluateOptions& options = {});

/// Names that evaluate() can give, for checking a recipe's early-stopping metric.
std::vector<std::string> metric_names(bool multi_label);
/// False for loss and ece.
bool higher_is_better(std::string_view metric);

}  // namespace mmtune::report
