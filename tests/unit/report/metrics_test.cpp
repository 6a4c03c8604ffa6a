// Expected values were computed once with scikit-learn 1.x on the same numbers (and with numpy for the calibration error).
#include "report/metrics.h"

#include <gtest/gtest.h>

#include <cmath>

namespace mmtune::report {
namespace {

/// A linear congruential generator (Knuth's MMIX constants), so that the same cases can be made in Python.
class Lcg {
 public:
  explicit Lcg(std::uint64_t seed) : state_(seed) {}
  double operator()() {
    state_ = state_ * 6364136223846793005U + 1442695040888963407U;
    return static_cast<double>(state_ >> 40) / 16777216.0;
  }

 private:
  std::uint64_t state_;
};

Scores single_label_case() {
  Lcg random(1);
  Scores scores{.examples = 60, .classes = 7, .scores = {}, .truth = {}, .truth_bits = {}, .losses = {}};
  for (std::size_t i = 0; i < 60 * 7; ++i) scores.scores.push_back(random());
  for (std::size_t i = 0; i < 60; ++i) scores.truth.push_back(static_cast<std::int64_t>(random() * 7));
  for (std::size_t i = 0; i < 60; ++i) {
    double* row = scores.scores.data() + i * 7;
    row[scores.truth[i]] += 0.25;
    double sum = 0;
    for (int c = 0; c < 7; ++c) sum += row[c];
    for (int c = 0; c < 7; ++c) row[c] /= sum;
  }
  return scores;
}

Scores multi_label_case() {
  Lcg random(2);
  Scores scores{.examples = 40, .classes = 5, .scores = {}, .truth = {}, .truth_bits = {}, .losses = {}};
  for (std::size_t i = 0; i < 40 * 5; ++i) scores.scores.push_back(std::nearbyint(random() * 10) / 10);
  for (std::size_t i = 0; i < 40 * 5; ++i) scores.truth_bits.push_back(random() < 0.4 ? 1 : 0);
  return scores;
}

Scores binary_case() {
  Scores scores{.examples = 6, .classes = 2, .scores = {}, .truth = {0, 0, 1, 1, 1, 0}, .truth_bits = {}, .losses = {}};
  for (const double p : {0.1, 0.4, 0.4, 0.8, 0.35, 0.8}) scores.scores.insert(scores.scores.end(), {1 - p, p});
  return scores;
}

TEST(Metrics, SingleLabelAgreesWithScikitLearn) {
  const Scores scores = single_label_case();
  const auto predicted = argmax(scores);
  EXPECT_NEAR(accuracy(predicted, scores.truth), 0.48333333333333334, 1e-15);
  EXPECT_NEAR(top_k_accuracy(scores, 3), 0.7666666666666667, 1e-15);
  EXPECT_NEAR(top_k_accuracy(scores, 1), accuracy(predicted, scores.truth), 1e-15);
  EXPECT_EQ(top_k_accuracy(scores, 7), 1.0);
  const F1 f1 = f1_single(confusion_matrix(predicted, scores.truth, 7), 7);
  EXPECT_NEAR(f1.macro, 0.4744445665161778, 1e-14);
  EXPECT_NEAR(f1.micro, 0.48333333333333334, 1e-15);
  EXPECT_NEAR(RocAuc(scores)(), 0.8022776002325569, 1e-14);
  EXPECT_NEAR(expected_calibration_error(scores), 0.21903866277478723, 1e-12);
}

TEST(Metrics, MultiLabelAgreesWithScikitLearn) {
  const Scores scores = multi_label_case();
  const F1 f1 = f1_multi(scores);
  EXPECT_NEAR(f1.macro, 0.38298724063429945, 1e-14);
  EXPECT_NEAR(f1.micro, 0.3804347826086957, 1e-14);
  EXPECT_NEAR(RocAuc(scores)(), 0.4211397599080888, 1e-14);
  EXPECT_NEAR(evaluate(scores, {.threshold = 0.5, .bootstrap = std::nullopt}).front().value, 0.025, 1e-15);
}

TEST(Metrics, TiesAndWeightsInTheAuc) {
  EXPECT_NEAR(RocAuc(binary_case())(), 0.5555555555555556, 1e-15);
  const std::vector<std::uint32_t> weights = {0, 2, 1, 3, 1, 0};
  EXPECT_NEAR(RocAuc(binary_case())(weights), 0.7, 1e-15);
}

TEST(Metrics, WeightsEqualRepetition) {
  const Scores scores = single_label_case();
  std::vector<std::uint32_t> weights(60);
  Scores repeated{.examples = 0, .classes = 7, .scores = {}, .truth = {}, .truth_bits = {}, .losses = {}};
  for (std::size_t i = 0; i < 60; ++i) {
    weights[i] = static_cast<std::uint32_t>(i % 4);
    for (std::size_t k = 0; k < i % 4; ++k) {
      repeated.scores.insert(repeated.scores.end(), scores.row(i).begin(), scores.row(i).end());
      repeated.truth.push_back(scores.truth[i]);
      ++repeated.examples;
    }
  }
  EXPECT_NEAR(RocAuc(scores)(weights), RocAuc(repeated)(), 1e-14);
  EXPECT_NEAR(expected_calibration_error(scores, 15, weights), expected_calibration_error(repeated), 1e-14);
  EXPECT_NEAR(top_k_accuracy(scores, 2, weights), top_k_accuracy(repeated, 2), 1e-14);
  EXPECT_EQ(confusion_matrix(argmax(scores), scores.truth, 7, weights), confusion_matrix(argmax(repeated), repeated.truth, 7));
}

TEST(Metrics, MacroF1LeavesOutClassesThatNeverOccur) {
  const std::vector<std::int64_t> truth = {0, 0, 3}, predicted = {0, 1, 3};
  EXPECT_NEAR(f1_single(confusion_matrix(predicted, truth, 6), 6).macro, 0.5555555555555555, 1e-15);
}

TEST(Metrics, EmptyAndOneSidedDataGiveNaN) {
  const Scores none{.examples = 0, .classes = 3, .scores = {}, .truth = {}, .truth_bits = {}, .losses = {}};
  EXPECT_TRUE(std::isnan(accuracy({}, {})));
  EXPECT_TRUE(std::isnan(RocAuc(none)()));
  EXPECT_TRUE(std::isnan(expected_calibration_error(none)));
  EXPECT_TRUE(std::isnan(mean({})));
  for (const Metric& metric : evaluate(none)) EXPECT_TRUE(std::isnan(metric.value)) << metric.name;
  const Scores one_sided{.examples = 2, .classes = 2, .scores = {0.1, 0.9, 0.2, 0.8}, .truth = {1, 1}, .truth_bits = {}, .losses = {}};
  EXPECT_TRUE(std::isnan(RocAuc(one_sided)()));
  for (const Metric& metric : evaluate(one_sided)) EXPECT_NE(metric.name, "auc");
}

TEST(Metrics, ConfidenceOneAndNaNScores) {
  const Scores sure{.examples = 2, .classes = 2, .scores = {1, 0, 0, 1}, .truth = {0, 0}, .truth_bits = {}, .losses = {}};
  EXPECT_NEAR(expected_calibration_error(sure), 0.5, 1e-15);
  const double nan = std::nan("");
  const Scores broken{.examples = 1, .classes = 3, .scores = {nan, 0.2, 0.1}, .truth = {0}, .truth_bits = {}, .losses = {}};
  EXPECT_EQ(argmax(broken).front(), 1);
  EXPECT_EQ(top_k_accuracy(broken, 3), 0.0);
}

TEST(Bootstrap, CoversAndRepeats) {
  std::vector<double> right(400, 0);
  for (std::size_t i = 0; i < 300; ++i) right[i] = 1;
  const std::vector<Statistic> statistics = {[&](Weights w) { return mean(right, w); }, [](Weights) { return std::nan(""); }};
  const auto first = bootstrap(400, statistics, {.replicates = 1000, .level = 0.95, .seed = 3});
  const auto again = bootstrap(400, statistics, {.replicates = 1000, .level = 0.95, .seed = 3});
  const auto other = bootstrap(400, statistics, {.replicates = 1000, .level = 0.95, .seed = 4});
  EXPECT_EQ(first[0].low, again[0].low);
  EXPECT_EQ(first[0].high, again[0].high);
  EXPECT_TRUE(first[0].low != other[0].low || first[0].high != other[0].high);
  // The binomial's own spread: sqrt(0.75 * 0.25 / 400) = 0.02165; 1.96 of it on either side.
  EXPECT_NEAR(first[0].low, 0.75 - 1.96 * 0.02165, 0.006);
  EXPECT_NEAR(first[0].high, 0.75 + 1.96 * 0.02165, 0.006);
  EXPECT_TRUE(std::isnan(first[1].low));
}

TEST(Bootstrap, ADifferenceIsPaired) {
  // One is right where the other is, and at 20 of 400 examples more.
  std::vector<double> right(400, 0), less(400, 0);
  for (std::size_t i = 0; i < 300; ++i) right[i] = less[i] = 1;
  for (std::size_t i = 0; i < 20; ++i) less[i] = 0;
  const std::vector<Statistic> statistics = {[&](Weights w) { return mean(right, w); }, [&](Weights w) { return mean(less, w); }};
  const BootstrapOptions options{.replicates = 2000, .level = 0.95, .seed = 3, .keep = true};
  const auto both = bootstrap(400, statistics, options);
  ASSERT_EQ(both[0].replicates.size(), 2000U);
  const Interval paired = difference(both[0], both[1]);
  // The spread of the 20 alone: sqrt(0.05 * 0.95 / 400) = 0.0109.
  EXPECT_NEAR(paired.low, 0.05 - 1.96 * 0.0109, 0.003);
  EXPECT_NEAR(paired.high, 0.05 + 1.96 * 0.0109, 0.003);
  const Interval none = difference(both[0], both[0]);
  EXPECT_EQ(none.low, 0);
  EXPECT_EQ(none.high, 0);
  // Two readings of the same length draw the same replicates.
  const auto alone = bootstrap(400, std::span(statistics).subspan(1), options);
  EXPECT_EQ(alone[0].replicates, both[1].replicates);
}

TEST(Evaluate, NamesWhatItGives) {
  Scores scores = single_label_case();
  scores.losses.assign(60, 0.5);
  std::vector<std::string> names;
  for (const Metric& metric : evaluate(scores)) {
    names.push_back(metric.name);
    ASSERT_TRUE(metric.interval.has_value());
    EXPECT_LE(metric.interval->low, metric.value + 1e-12) << metric.name;
    EXPECT_GE(metric.interval->high, metric.value - 0.2) << metric.name;
    EXPECT_EQ(metric.higher_is_better, metric.name != "loss" && metric.name != "ece");
  }
  EXPECT_EQ(names, metric_names(false));
}

}  // namespace
}  // namespace mmtune::report
