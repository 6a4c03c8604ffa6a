// The metrics of answers; the golden case `metrics` compares them with the released code and scikit-learn.
#include "report/answers.h"

#include <gtest/gtest.h>

#include <cmath>

namespace mmtune::report {
namespace {

TEST(Answers, CandidatesByTheirScores) {
  const Scores scores{.examples = 2,
                      .classes = 6,
                      .scores = {-1, -2, -3, -4, -5, -6, -1, -2, -3, -4, -5, -6},
                      .truth = {0, 5},
                      .truth_bits = {},
                      .losses = {}};
  const CandidateSummary summary = summarise_candidates(scores);
  EXPECT_DOUBLE_EQ(summary.top1, 0.5);
  EXPECT_DOUBLE_EQ(summary.top5.value(), 0.5);
  EXPECT_DOUBLE_EQ(summary.mean_score, -3.5);
  EXPECT_DOUBLE_EQ(summary.mean_truth_score, -3.5);
  const Scores few{.examples = 1, .classes = 2, .scores = {-1, -2}, .truth = {1}, .truth_bits = {}, .losses = {}};
  EXPECT_FALSE(summarise_candidates(few).top5);
}

TEST(Answers, YesAndNo) {
  const std::vector<std::uint8_t> answered{1, 1, 0, 0, 1}, truth{1, 0, 1, 0, 1};
  const YesNo counts = summarise_yes_no(answered, truth);
  EXPECT_EQ(counts.true_yes, 2U);
  EXPECT_DOUBLE_EQ(counts.accuracy, 0.6);
  EXPECT_DOUBLE_EQ(counts.precision, 2.0 / 3);
  EXPECT_DOUBLE_EQ(counts.recall, 2.0 / 3);
  EXPECT_DOUBLE_EQ(counts.f1, 2.0 / 3);
  EXPECT_DOUBLE_EQ(counts.yes_ratio, 0.6);
  const std::vector<std::uint8_t> never{0, 0};
  EXPECT_DOUBLE_EQ(summarise_yes_no(never, never).precision, 0.0);
}

TEST(Answers, AreaUnderTheCurve) {
  const std::vector<double> scores{2, 1, 1, 0};
  const std::vector<std::uint8_t> truth{1, 1, 0, 0}, same{1, 1, 1, 1};
  EXPECT_DOUBLE_EQ(yes_no_auc(scores, truth), 0.875);
  EXPECT_TRUE(std::isnan(yes_no_auc(scores, same)));
}

TEST(Answers, WordsThatSayNo) {
  EXPECT_TRUE(says_yes("Yes, there is a dog."));
  EXPECT_TRUE(says_yes("There is a dog. It is not large."));
  EXPECT_FALSE(says_yes("No, there is none."));
  EXPECT_FALSE(says_yes("there is not a dog"));
  EXPECT_TRUE(says_yes("nothing"));
}

TEST(Answers, Counts) {
  EXPECT_EQ(counting_answer("There are Three-four\nthings!"), "there are threefour things");
  EXPECT_EQ(counting_answer("don't"), "don't");
  EXPECT_TRUE(counts_right("ten objects", "1"));
  EXPECT_FALSE(counts_right("", "4"));
}

}  // namespace
}  // namespace mmtune::report
