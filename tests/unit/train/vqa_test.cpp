#include "train/vqa.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace mmtune::train {
namespace {

data::Dataset dataset(const std::vector<std::vector<std::string>>& all) {
  data::Dataset made;
  made.source = "made up";
  for (const auto& answers : all) {
    made.examples.emplace_back();
    made.examples.back().answers = answers;
  }
  return made;
}

const std::vector<std::int64_t> both = {0, 1};

TEST(Vqa, LossesAndAccuracy) {
  const data::Dataset data = dataset({{"yes", "yes", "no"}, {"blue"}});
  const Vqa binary(data::AnswerSpace({"no", "yes"}, true), VqaLoss::binary),
      softmax(data::AnswerSpace({"no", "yes"}, true), VqaLoss::softmax);
  const at::Tensor targets = binary.targets(data, both);
  EXPECT_TRUE(at::allclose(targets, at::tensor({1.0F / 3, 2.0F / 3, 0.0F, 0.0F}).view({2, 2})));
  const at::Tensor logits = at::tensor({0.5F, -1.0F, 2.0F, 0.0F}).view({2, 2});
  const at::Tensor expected = -(targets * logits.sigmoid().log() + (1 - targets) * (1 - logits.sigmoid()).log()).sum();
  EXPECT_NEAR(binary.loss(logits, data, both).item<double>(), expected.item<double>(), 1e-5);
  EXPECT_NEAR(softmax.loss(logits, data, both).item<double>(), -(targets * logits.log_softmax(1)).sum().item<double>(), 1e-5);
  const auto scorer = binary.scorer();
  scorer->add(logits, data, both);
  const auto metrics = scorer->metrics(report::BootstrapOptions{.replicates = 20});
  EXPECT_EQ(metrics[0].name, "vqa_accuracy");
  EXPECT_NEAR(metrics[0].value, (1.0 / 3 + 0) / 2, 1e-6);  // "no" is the best of both rows
  EXPECT_TRUE(metrics[0].interval.has_value());
  EXPECT_EQ(scorer->details().at("examples_without_a_listed_answer"), 1);
}

TEST(Vqa, AnswersOfTheTrainingDataOrOfTheRecipe) {
  Recipe recipe;
  recipe.task = "vqa";
  data::Dataset data = dataset({{"cat"}, {"dog"}, {"a dog"}});
  EXPECT_EQ(Vqa::for_training(recipe, data)->classes(), (std::vector<std::string>{"cat", "dog"}));
  recipe.vqa.min_count = 2;
  const auto task = Vqa::for_training(recipe, data);
  EXPECT_EQ(task->classes(), (std::vector<std::string>{"dog"}));
  EXPECT_FALSE(task->learns_from(data.examples[0]));
  EXPECT_TRUE(task->learns_from(data.examples[2]));
  recipe.data.classes = data.classes = {"horse"};
  EXPECT_THROW(Vqa::for_training(recipe, data), Error);
}

TEST(Vqa, PredictsTheBestAnswersInOrder) {
  const Vqa task(data::AnswerSpace({"a1", "b1", "c1"}, true), VqaLoss::softmax);
  const auto predictions = task.predict(at::tensor({0.0F, 3.0F, 1.0F}).view({1, 3}), 2);
  ASSERT_EQ(predictions.size(), 1U);
  EXPECT_EQ(predictions[0].labels, (std::vector<std::string>{"b1"}));
  ASSERT_EQ(predictions[0].top.size(), 2U);
  EXPECT_EQ(predictions[0].top[1].label, "c1");
}

}  // namespace
}  // namespace mmtune::train
