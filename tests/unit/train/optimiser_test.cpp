#include "train/optimiser.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

namespace mmtune::train {
namespace {

at::Tensor leaf(at::IntArrayRef shape, float value) {
  return at::full(shape, value, at::kFloat).requires_grad_(true);
}

struct TwoTensors {
  at::Tensor matrix = leaf({2, 2}, 1.0F), vector = leaf({3}, 2.0F);
  nn::Parameters parameters;
  TwoTensors() {
    parameters.add("main.lora.layer.0.weight", matrix);
    parameters.add("head.bias", vector);
  }
};

TEST(Optimiser, AdamWFollowsItsEquations) {
  TwoTensors two;
  TrainSection section;
  section.weight_decay = 0.1;
  const auto groups = flatten_into_groups(two.parameters, section);
  const auto optimiser = make_optimiser(section, two.parameters, groups);
  double value = 1.0, m = 0, v = 0;
  for (int step = 0; step < 3; ++step) {
    const double gradient = 0.5 - step, lr = 0.01;
    two.parameters.gradients().fill_(gradient);
    optimiser->step(step, lr);
    value -= lr * section.weight_decay * value;
    m = section.beta1 * m + (1 - section.beta1) * gradient;
    v = section.beta2 * v + (1 - section.beta2) * gradient * gradient;
    value -= lr * (m / (1 - std::pow(section.beta1, step + 1))) / (std::sqrt(v / (1 - std::pow(section.beta2, step + 1))) + section.eps);
  }
  EXPECT_NEAR(two.matrix[0][0].item<double>(), value, 1e-6);
}

TEST(Optimiser, LateDecayFollowsItsEquations) {
  TwoTensors two;
  TrainSection section;
  section.optimizer = OptimiserKind::adamw_late_decay;
  section.weight_decay = 0.1;
  section.beta2 = 0.98;
  section.eps = 1e-2;  // large enough to see where it stands
  const auto groups = flatten_into_groups(two.parameters, section);
  const auto optimiser = make_optimiser(section, two.parameters, groups);
  double value = 1.0, m = 0, v = 0;
  for (int step = 0; step < 3; ++step) {
    const double gradient = 0.5 - step, lr = 0.01;
    two.parameters.gradients().fill_(gradient);
    optimiser->step(step, lr);
    m = section.beta1 * m + (1 - section.beta1) * gradient;
    v = section.beta2 * v + (1 - section.beta2) * gradient * gradient;
    const double rate = lr * std::sqrt(1 - std::pow(section.beta2, step + 1)) / (1 - std::pow(section.beta1, step + 1));
    value -= rate * m / (std::sqrt(v) + section.eps);
    value -= lr * section.weight_decay * value;
  }
  EXPECT_NEAR(two.matrix[0][0].item<double>(), value, 1e-6);
}

TEST(Optimiser, VectorsAreNotDecayedAndGroupsHaveTheirOwnRates) {
  TwoTensors two;
  TrainSection section;
  section.weight_decay = 0.5;
  section.groups.push_back({.pattern = "main.*", .lr_scale = 0.0, .weight_decay = {}});
  const auto groups = flatten_into_groups(two.parameters, section);
  ASSERT_EQ(groups.size(), 2U);
  const auto optimiser = make_optimiser(section, two.parameters, groups);
  two.parameters.gradients().zero_();
  optimiser->step(0, 0.1);
  EXPECT_FLOAT_EQ(two.matrix[0][0].item<float>(), 1.0F);  // rate 0: neither gradient nor decay
  EXPECT_FLOAT_EQ(two.vector[0].item<float>(), 2.0F);     // no gradient, and no decay on vectors
}

TEST(Optimiser, SgdWithMomentum) {
  TwoTensors two;
  TrainSection section;
  section.optimizer = OptimiserKind::sgd;
  section.weight_decay = 0.0;
  const auto optimiser = make_optimiser(section, two.parameters, flatten_into_groups(two.parameters, section));
  for (int step = 0; step < 2; ++step) {
    two.parameters.gradients().fill_(1.0);
    optimiser->step(step, 0.1);
  }
  EXPECT_NEAR(two.vector[0].item<double>(), 2.0 - 0.1 * (1.0 + 1.9), 1e-6);
}

TEST(Optimiser, SgdWithoutMomentumKeepsNoState) {
  TwoTensors two;
  TrainSection section;
  section.optimizer = OptimiserKind::sgd;
  section.momentum = 0;
  section.weight_decay = 0.5;
  const auto optimiser = make_optimiser(section, two.parameters, flatten_into_groups(two.parameters, section));
  EXPECT_TRUE(optimiser->state().empty());
  two.parameters.gradients().fill_(1.0);
  optimiser->step(0, 0.1);
  EXPECT_NEAR(two.matrix[0][0].item<double>(), 1.0 - 0.1 * (1.0 + 0.5), 1e-6);
}

TEST(Optimiser, APatternThatMatchesNothingIsAnError) {
  TwoTensors two;
  TrainSection section;
  section.groups.push_back({.pattern = "nowhere.*", .lr_scale = 1.0, .weight_decay = {}});
  EXPECT_THROW(flatten_into_groups(two.parameters, section), UsageError);
}

TEST(Optimiser, ClippingScalesTheWholeGradient) {
  at::Tensor gradient = at::full({4}, 2.0, at::kFloat);
  EXPECT_NEAR(clip_gradient(gradient, 1.0), 4.0, 1e-6);
  EXPECT_NEAR(gradient.norm().item<double>(), 1.0, 1e-5);
  gradient.fill_(0.1);
  clip_gradient(gradient, 1.0);
  EXPECT_FLOAT_EQ(gradient[0].item<float>(), 0.1F);
  gradient[1] = INFINITY;
  EXPECT_FALSE(std::isfinite(clip_gradient(gradient, 1.0)));
}

}  // namespace
}  // namespace mmtune::train
