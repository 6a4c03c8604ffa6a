#include "train/classify.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

namespace mmtune::train {
namespace {

data::Dataset labelled(const std::vector<std::vector<std::int64_t>>& labels, bool multi_label = false) {
  data::Dataset dataset{.source = "test", .classes = {"a", "b", "c"}, .multi_label = multi_label};
  for (const auto& own : labels) dataset.examples.push_back({.id = std::to_string(dataset.examples.size()), .labels = own});
  return dataset;
}

TEST(Classify, AccumulatedLossesEqualThoseOfOneBatch) {
  const data::Dataset dataset = labelled({{0}, {1}, {2}, {1}, {1}});
  const Classify task({"a", "b", "c"}, false, 0.5, 0.1, {1.0, 3.0, 0.5});
  const at::Tensor logits = at::randn({5, 3});
  const std::vector<std::int64_t> all{0, 1, 2, 3, 4}, first{0, 1}, rest{2, 3, 4};
  const double whole = task.loss(logits, dataset, all).item<double>() / task.weight(dataset, all);
  const double weight = task.weight(dataset, first) + task.weight(dataset, rest);
  const double parts =
      (task.loss(logits.narrow(0, 0, 2), dataset, first) / weight + task.loss(logits.narrow(0, 2, 3), dataset, rest) / weight)
          .item<double>();
  EXPECT_NEAR(whole, parts, 1e-6);
  const at::Tensor targets = at::tensor({0, 1, 2, 1, 1}, at::kLong);
  const auto reference = at::cross_entropy_loss(logits, targets, at::tensor({1.0F, 3.0F, 0.5F}), at::Reduction::Mean, -100, 0.1);
  EXPECT_NEAR(whole, reference.item<double>(), 1e-6);
}

TEST(Classify, MultiLabelLossIsTheMeanOverClasses) {
  const data::Dataset dataset = labelled({{0, 2}, {}}, true);
  const Classify task({"a", "b", "c"}, true, 0.5);
  const at::Tensor logits = at::tensor({1.0F, -2.0F, 0.5F, 0.0F, 0.0F, 3.0F}).view({2, 3});
  const auto softplus = [](double x) { return std::log1p(std::exp(x)); };
  const double expected = (softplus(-1) + softplus(-2) + softplus(-0.5) + 2 * std::log(2) + softplus(3)) / 3;
  const std::vector<std::int64_t> all{0, 1};
  EXPECT_NEAR(task.loss(logits, dataset, all).item<double>(), expected, 1e-6);
  EXPECT_EQ(task.weight(dataset, all), 2.0);
}

TEST(Classify, BalancedWeightsFollowTheFrequencies) {
  Recipe recipe;
  recipe.loss.balanced = true;
  const data::Dataset dataset = labelled({{0}, {0}, {0}, {1}});
  const auto task = Classify::for_training(recipe, dataset);
  const std::vector<std::int64_t> rare{3}, common{0};
  EXPECT_NEAR(task->weight(dataset, rare), 2.0, 1e-12);
  EXPECT_NEAR(task->weight(dataset, common), 2.0 / 3, 1e-12);
}

TEST(Classify, WrongNumberOfWeightsAndASingleClassAreErrors) {
  Recipe recipe;
  recipe.loss.class_weights = {1.0, 2.0};
  EXPECT_THROW(Classify::for_training(recipe, labelled({{0}, {1}})), UsageError);
  data::Dataset one = labelled({{0}});
  one.classes = {"a"};
  EXPECT_THROW(Classify::for_training({}, one), Error);
}

TEST(Classify, PredictionsAreSortedAndMultiLabelGoesByTheThreshold) {
  const Classify single({"a", "b", "c"}, false, 0.5);
  const Prediction best = single.predict(at::tensor({0.0F, 2.0F, 1.0F}).view({1, 3}), 2).front();
  EXPECT_EQ(best.labels, std::vector<std::string>{"b"});
  ASSERT_EQ(best.top.size(), 2U);
  EXPECT_EQ(best.top[1].label, "c");
  EXPECT_NEAR(best.top[0].score, std::exp(2) / (1 + std::exp(1) + std::exp(2)), 1e-9);
  const Classify multi({"a", "b", "c"}, true, 0.6);
  const Prediction some = multi.predict(at::tensor({1.0F, 0.1F, -1.0F}).view({1, 3}), 3).front();
  EXPECT_EQ(some.labels, std::vector<std::string>{"a"});
}

TEST(Classify, ScorerGathersBatches) {
  const data::Dataset dataset = labelled({{0}, {1}, {2}});
  const Classify task({"a", "b", "c"}, false, 0.5);
  const auto scorer = task.scorer();
  const at::Tensor logits = at::eye(3) * 4;
  const std::vector<std::int64_t> first{0, 1}, last{2};
  scorer->add(logits.narrow(0, 0, 2), dataset, first);
  scorer->add(logits.narrow(0, 0, 1), dataset, last);  // the answer "a" to an example of class "c"
  double accuracy = -1, loss = -1;
  for (const report::Metric& metric : scorer->metrics(std::nullopt)) {
    if (metric.name == "accuracy") accuracy = metric.value;
    if (metric.name == "loss") loss = metric.value;
  }
  const double log_sum = std::log(std::exp(4.0) + 2);
  EXPECT_NEAR(accuracy, 2.0 / 3, 1e-12);
  EXPECT_NEAR(loss, (2 * (log_sum - 4) + log_sum) / 3, 1e-6);
  EXPECT_EQ(scorer->details()["confusion"][2][0], 1);
}

TEST(Classify, ItsDescriptionMakesItAgain) {
  const Classify task({"no", "yes"}, false, 0.5);
  const auto again = read_task({}, task.describe(), "run.json");
  EXPECT_EQ(again->classes(), task.classes());
  EXPECT_THROW(read_task({}, Json{{"task", "classify"}}, "run.json"), Error);
}

}  // namespace
}  // namespace mmtune::train
