#include "methods/prompt_optimiser.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace mmtune::methods {
namespace {

struct Made {
  at::Tensor leaf, mask;
  nn::Parameters parameters;
};

Made make() {
  Made made{.leaf = at::zeros({3, 6, 6}), .mask = at::ones({3, 6, 6}), .parameters = {}};
  made.leaf.requires_grad_(true);
  made.mask.narrow(1, 2, 2).narrow(2, 2, 2).zero_();
  made.parameters.add("perturbation", made.leaf);
  made.parameters.flatten();
  return made;
}

TEST(PromptOptimiser, NormIsTakenBeforeTheMask) {
  Made made = make();
  PromptOptimiser optimiser({}, made.parameters, {made.mask});
  made.parameters.gradients().fill_(2.0);
  const double norm = optimiser.step(0, 10.0, 4);
  EXPECT_NEAR(norm, 0.5 * std::sqrt(108.0), 1e-5);
  // A step of length 10 over all entries; those inside are then left out.
  const double entry = 10.0 / std::sqrt(108.0);
  EXPECT_NEAR(made.leaf[0][0][0].item<double>(), -entry, 1e-5);
  EXPECT_EQ(made.leaf[0][2][2].item<double>(), 0.0);
  EXPECT_LT(made.leaf.norm().item<double>(), 10.0);
}

TEST(PromptOptimiser, NormOfTheBorderAloneMakesWholeSteps) {
  Made made = make();
  PromptOptimiser optimiser({.rule = PromptRule::normalised_border}, made.parameters, {made.mask});
  made.parameters.gradients().fill_(2.0);
  optimiser.step(0, 10.0, 1);
  EXPECT_NEAR(made.leaf.norm().item<double>(), 10.0, 1e-4);
}

TEST(PromptOptimiser, ScaleOfTheLossDoesNotMatter) {
  Made one = make(), other = make();
  PromptOptimiser first({}, one.parameters, {one.mask}), second({}, other.parameters, {other.mask});
  const at::Tensor gradient = at::rand({108}) - 0.5;
  one.parameters.gradients().copy_(gradient);
  other.parameters.gradients().copy_(gradient * 1000.0);
  first.step(0, 1.0, 1);
  second.step(0, 1.0, 1);
  EXPECT_TRUE(at::allclose(one.leaf, other.leaf, 1e-5, 1e-7));
}

TEST(PromptOptimiser, AGradientOfZeroMovesNothing) {
  Made made = make();
  PromptOptimiser optimiser({}, made.parameters, {made.mask});
  EXPECT_EQ(optimiser.step(0, 10.0, 1), 0.0);
  EXPECT_TRUE(made.leaf.eq(0).all().item<bool>());
}

TEST(PromptOptimiser, OtherRulesStayInTheBorder) {
  for (const PromptRule rule : {PromptRule::adam, PromptRule::sgd}) {
    Made made = make();
    PromptOptimiser optimiser({.rule = rule}, made.parameters, {made.mask});
    for (std::int64_t step = 0; step < 3; ++step) {
      made.parameters.gradients().fill_(1.0);
      optimiser.step(step, 0.1, 4);
    }
    EXPECT_TRUE(made.leaf.masked_select(made.mask.eq(0)).eq(0).all().item<bool>());
    EXPECT_TRUE(made.leaf.masked_select(made.mask.eq(1)).lt(0).all().item<bool>());
    EXPECT_FALSE(optimiser.state().empty());
  }
}

TEST(PromptRate, CosinePerEpochIsConstantWithinOne) {
  const PromptSteps steps{.total = 12, .per_epoch = 4, .epochs = 3};
  for (std::int64_t step = 0; step < 12; ++step) {
    const double epoch = std::floor(static_cast<double>(step) / 4.0);
    EXPECT_DOUBLE_EQ(prompt_rate(PromptSchedule::cosine_epoch, 10.0, steps, step), 5.0 * (1 + std::cos(std::numbers::pi * epoch / 3)));
  }
  EXPECT_DOUBLE_EQ(prompt_rate(PromptSchedule::cosine_epoch, 10.0, {.total = 4, .per_epoch = 4, .epochs = 1}, 3), 10.0);
}

TEST(PromptRate, CosinePerStepBehindAWarmUp) {
  const PromptSteps steps{.total = 3000, .per_epoch = 10, .epochs = 300, .warmup = 1000};
  EXPECT_DOUBLE_EQ(prompt_rate(PromptSchedule::cosine_step, 40.0, steps, 0), 40.0 / 1000);
  EXPECT_DOUBLE_EQ(prompt_rate(PromptSchedule::cosine_step, 40.0, steps, 999), 40.0);
  EXPECT_DOUBLE_EQ(prompt_rate(PromptSchedule::cosine_step, 40.0, steps, 1000), 40.0);
  EXPECT_NEAR(prompt_rate(PromptSchedule::cosine_step, 40.0, steps, 2000), 20.0, 1e-12);
  EXPECT_DOUBLE_EQ(prompt_rate(PromptSchedule::constant, 40.0, steps, 2000), 40.0);
}

}  // namespace
}  // namespace mmtune::methods
