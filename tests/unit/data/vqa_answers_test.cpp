#include "data/vqa_answers.h"

#include "unit/data/data_test_support.h"

namespace mmtune::data::test {
namespace {

Dataset answered(const std::vector<std::vector<std::string>>& all) {
  Dataset dataset;
  dataset.source = "made up";
  for (const auto& answers : all) {
    dataset.examples.emplace_back();
    dataset.examples.back().answers = answers;
  }
  return dataset;
}

TEST(VqaAnswers, NormalForms) {
  const std::pair<const char*, const char*> forms[] = {{"The Cat.", "cat"},
                                                       {"two dogs", "2 dogs"},
                                                       {"1,000 t-shirts", "1000 tshirts"},
                                                       {"dont know", "don't know"},
                                                       {"red / white", "red white"},
                                                       {"yalld've", "yalld've"},
                                                       {"y'alld've", "y'all'd've"},
                                                       {"Größe", "größe"},
                                                       {"", ""},
                                                       {"  a  ", ""},
                                                       {"3.5", "3.5"},
                                                       {"end.", "end"}};
  for (const auto& [raw, normal] : forms) EXPECT_EQ(normal_answer(raw), normal) << raw;
}

TEST(VqaAnswers, ScoresOfOtherNumbersOfAnnotators) {
  EXPECT_DOUBLE_EQ(soft_score(1, 10), 0.3);
  EXPECT_DOUBLE_EQ(soft_score(4, 10), 1.0);
  EXPECT_DOUBLE_EQ(soft_score(1, 1), 1.0);
  EXPECT_DOUBLE_EQ(soft_score(1, 2), 0.5);
  EXPECT_NEAR(soft_score(2, 5), 2.0 / 3, 1e-12);
  EXPECT_DOUBLE_EQ(soft_score(0, 10), 0.0);
}

TEST(VqaAnswers, ACommonAnswerIsTheMostCommonOneOfEnoughExamples) {
  const Dataset dataset = answered({{"blue", "Red", "Red"}, {"red"}, {"blue", "green"}, {"the red"}, {}, {"blue"}});
  EXPECT_EQ(AnswerSpace::of(dataset, 1, true).answers(), (std::vector<std::string>{"red", "blue"}));
  EXPECT_EQ(AnswerSpace::of(dataset, 3, true).answers(), (std::vector<std::string>{"red"}));
  expect_contains(message_of([&] { AnswerSpace::of(dataset, 4, true); }), "vqa.min_count");
  expect_contains(message_of([&] { AnswerSpace::of(answered({{}, {}}), 1, true); }), "data.columns.answers");
}

TEST(VqaAnswers, ScoresByIndex) {
  const AnswerSpace normal({"yes", "no", "2"}, true), written({"yes", "no", "2"}, false);
  Example example;
  example.answers = {"No", "two", "two.", "maybe", "no", "2", "x", "x", "x", "x"};
  const auto scores = normal.scores(example);
  ASSERT_EQ(scores.size(), 2u);
  EXPECT_EQ(scores[0].answer, 1);
  EXPECT_DOUBLE_EQ(scores[0].score, 0.6);
  EXPECT_EQ(scores[1].answer, 2);
  EXPECT_DOUBLE_EQ(scores[1].score, 0.9);
  const auto as_written = written.scores(example);
  ASSERT_EQ(as_written.size(), 2u);
  EXPECT_DOUBLE_EQ(as_written[0].score, 0.3);
  EXPECT_TRUE(normal.scores({}).empty());
  expect_contains(message_of([] { AnswerSpace({"a", "a"}, true); }), "listed twice");
}

}  // namespace
}  // namespace mmtune::data::test
