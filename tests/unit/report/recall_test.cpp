#include "report/recall.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace mmtune::report {
namespace {

TEST(Recall, PlacesOfBothWays) {
  // Two pictures; texts 0 and 2 are the first one's, text 1 the second's.
  const std::vector<float> scores = {3, 9, 1,  //
                                     4, 8, 2};
  const std::vector<std::int64_t> picture_of = {0, 1, 0};
  const Ranks found = ranks(scores, 2, picture_of);
  EXPECT_EQ(found.of_texts, (std::vector<std::int64_t>{1, 1, 1}));
  EXPECT_EQ(found.of_pictures, (std::vector<std::int64_t>{1, 0}));
  EXPECT_DOUBLE_EQ(recall_at(found.of_texts, 1), 0.0);
  EXPECT_DOUBLE_EQ(recall_at(found.of_texts, 5), 1.0);
  EXPECT_DOUBLE_EQ(recall_at(found.of_pictures, 1), 0.5);
  const std::vector<Metric> metrics = recalls(found, BootstrapOptions{.replicates = 50});
  EXPECT_EQ(metrics.size(), 7u);
  EXPECT_EQ(metrics[0].name, "r1");
  EXPECT_DOUBLE_EQ(metrics[0].value, 0.25);
  EXPECT_TRUE(metrics[4].interval.has_value());
}

TEST(Recall, OfEqualScoresTheEarlierRanksHigher) {
  const std::vector<float> scores = {1, 1, 1, 1};
  const std::vector<std::int64_t> picture_of = {0, 1};
  const Ranks found = ranks(scores, 2, picture_of);
  EXPECT_EQ(found.of_texts, (std::vector<std::int64_t>{0, 1}));
  EXPECT_EQ(found.of_pictures, (std::vector<std::int64_t>{0, 1}));
}

TEST(Recall, WhatIsNotANumberRanksLast) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> scores = {1, nan, nan, nan};
  const std::vector<std::int64_t> picture_of = {0, 1};
  const Ranks found = ranks(scores, 2, picture_of);
  EXPECT_EQ(found.of_texts[0], 0);
  EXPECT_EQ(found.of_pictures[0], 0);
  EXPECT_EQ(found.of_texts[1], 1) << "a score that is not a number must never look like a hit";
}

TEST(Recall, PicturesWithoutATextDoNotCount) {
  const std::vector<float> scores = {1, 2};
  const std::vector<std::int64_t> picture_of = {0};
  const Ranks found = ranks(scores, 2, picture_of);
  EXPECT_EQ(found.of_pictures, (std::vector<std::int64_t>{0, -1}));
  EXPECT_DOUBLE_EQ(recall_at(found.of_pictures, 1), 1.0);
  EXPECT_TRUE(std::isnan(recall_at({}, 1)));
}

}  // namespace
}  // namespace mmtune::report
