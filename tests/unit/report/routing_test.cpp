#include "report/routing.h"

#include <gtest/gtest.h>

#include <cmath>

namespace mmtune::report {
namespace {

TEST(Routing, DecidedEvenlyAndInformative) {
  // Two experts, each fully chosen by one of two labels.
  const RoutingScores scores{.block = "b", .experts = 2, .scores = {1, 0, 0, 1, 1, 0, 0, 1}};
  const RoutingStatistics s = routing_statistics(scores, {{0}, {1}, {0}, {1}});
  EXPECT_DOUBLE_EQ(s.usage[0], 0.5);
  EXPECT_DOUBLE_EQ(s.chosen[1], 0.5);
  EXPECT_DOUBLE_EQ(s.entropy, 0.0);
  EXPECT_DOUBLE_EQ(s.variation, 0.0);
  EXPECT_NEAR(s.information, 1.0, 1e-12);
  EXPECT_NEAR(s.normalised, 1.0, 1e-12);
}

TEST(Routing, UndecidedTellsNothing) {
  const RoutingScores scores{.block = "b", .experts = 4, .scores = std::vector<float>(12, 0.25F)};
  const RoutingStatistics s = routing_statistics(scores, {{0}, {1}, {2}});
  EXPECT_NEAR(s.entropy, 1.0, 1e-6);
  EXPECT_NEAR(s.variation, 0.0, 1e-12);
  EXPECT_DOUBLE_EQ(s.information, 0.0);  // the strongest of equals is always the first
  EXPECT_DOUBLE_EQ(s.normalised, 0.0);
}

TEST(Routing, VariationOfACollapseIsTheNumberOfExperts) {
  const RoutingScores scores{.block = "b", .experts = 3, .scores = {1, 0, 0, 1, 0, 0}};
  EXPECT_NEAR(routing_statistics(scores, {{0}, {0}}).variation, 3.0, 1e-12);
}

TEST(Routing, OneExpertAndNoLabels) {
  const RoutingScores scores{.block = "b", .experts = 1, .scores = {1, 1}};
  const RoutingStatistics s = routing_statistics(scores, {{}, {}});
  EXPECT_DOUBLE_EQ(s.usage[0], 1.0);
  EXPECT_DOUBLE_EQ(s.entropy, 0.0);
  EXPECT_DOUBLE_EQ(s.variation, 0.0);
  EXPECT_DOUBLE_EQ(s.information, 0.0);
  EXPECT_DOUBLE_EQ(s.normalised, 0.0);
}

TEST(Words, TellGroupsApart) {
  const std::vector<std::string> texts = {"what is the Circle?", "a circle!", "the red triangle", "is there a triangle", ""};
  const auto words = distinguishing_words(texts, {0, 0, 1, 1, 1}, 2, 5);
  ASSERT_EQ(words[0].size(), 1U);
  EXPECT_EQ(words[0][0].word, "circle");
  EXPECT_EQ(words[0][0].count, 2U);
  EXPECT_EQ(words[1].front().word, "triangle");
}

TEST(Words, KeepOtherScriptsWhole) {
  const auto words = distinguishing_words({"größe", "klein"}, {0, 1}, 2, 3);
  ASSERT_FALSE(words[0].empty());
  EXPECT_EQ(words[0][0].word, "größe");
}

}  // namespace
}  // namespace mmtune::report
