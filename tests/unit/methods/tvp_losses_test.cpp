#include "methods/tvp_losses.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "experts/pixel_prompt.h"

namespace mmtune::methods {
namespace {

TEST(FeatureConsistency, GradientIsZeroWhereNothingMoved) {
  const at::Tensor clean = at::rand({2, 3, 4});
  const at::Tensor prompted = clean.clone().requires_grad_(true);
  const at::Tensor loss = feature_consistency(prompted, clean);
  EXPECT_EQ(loss.item<double>(), 0.0);
  loss.backward();
  EXPECT_TRUE(prompted.grad().eq(0).all().item<bool>());
}

TEST(FeatureConsistency, IsTheMeanOfLengths) {
  const at::Tensor clean = at::zeros({1, 2, 2}, at::TensorOptions().requires_grad(true));
  const at::Tensor prompted = at::tensor({3.0F, 4.0F, 0.0F, 1.0F}).view({1, 2, 2}).requires_grad_(true);
  const at::Tensor loss = feature_consistency(prompted, clean);
  EXPECT_NEAR(loss.item<double>(), (5.0 + 1.0) / 2, 1e-6);
  loss.backward();
  EXPECT_FALSE(clean.grad().defined());
}

TEST(TaskSemantics, IsTheDiagonalAlone) {
  const at::Tensor pictures = at::tensor({1.0F, 0.0F, 0.0F, 2.0F}).view({2, 2}), texts = at::tensor({3.0F, 0.0F, 1.0F, 0.0F}).view({2, 2});
  EXPECT_NEAR(task_semantics(pictures, texts, at::scalar_tensor(std::log(100.0))).item<double>(), 50.0, 1e-4);
}

}  // namespace
}  // namespace mmtune::methods

namespace mmtune::experts {
namespace {

TEST(PromptShape, RefusesWhatNoPromptCanHave) {
  EXPECT_NO_THROW(check({.form = PromptForm::border, .frame = 224, .width = 30, .image = 164}, ""));
  EXPECT_NO_THROW(check({.form = PromptForm::border, .frame = 224, .width = 30, .image = 200}, ""));
  for (const PromptShape& shape : {PromptShape{.form = PromptForm::border, .frame = 224, .width = 30, .image = 165},
                                   PromptShape{.form = PromptForm::border, .frame = 224, .width = 30, .image = 226},
                                   PromptShape{.form = PromptForm::border, .frame = 224, .width = 112, .image = 100},
                                   PromptShape{.form = PromptForm::border, .frame = 224, .width = 0, .image = 100},
                                   PromptShape{.form = PromptForm::full, .frame = 224, .width = 0, .image = 200},
                                   PromptShape{.form = PromptForm::vp_padding, .frame = 28, .width = 4, .image = 20},
                                   PromptShape{.form = PromptForm::vp_fixed_patch, .frame = 28, .width = 28, .image = 28}})
    EXPECT_THROW(check(shape, "expert."), UsageError);
}

TEST(BorderWidth, IsToldByTheZeros) {
  at::Tensor delta = at::zeros({3, 12, 12});
  EXPECT_FALSE(border_width_of(delta).has_value());
  delta[1][2][7] = 0.5;
  EXPECT_EQ(border_width_of(delta), 3);
  delta[2][8][8] = -1;
  EXPECT_EQ(border_width_of(delta), 4);
  delta.fill_(1);
  EXPECT_EQ(border_width_of(delta), 6);
}

TEST(StripPrompt, TimesTheDeviationIsTheSameInPixels) {
  // What section 3.2 says of VP's strips: exact for the addition.
  PixelPrompt prompt({.form = PromptForm::vp_padding, .frame = 16, .width = 3, .image = 16}, at::detail::createCPUGenerator(1));
  const at::Tensor picture = at::rand({2, 3, 16, 16});
  const at::Tensor pixels = prompt.prompted(picture, clip_norm);
  const at::Tensor normalised = (pixels - clip_norm.mean_tensor()) / clip_norm.std_tensor();
  EXPECT_TRUE(at::allclose(normalised, prompt.input(picture, clip_norm, 16), 1e-5, 1e-5));
}

TEST(RandomPatch, NeverReachesTheLastPlace) {
  PixelPrompt prompt({.form = PromptForm::vp_random_patch, .frame = 8, .width = 5, .image = 8}, at::detail::createCPUGenerator(1));
  at::Generator generator = at::detail::createCPUGenerator(2);
  for (int i = 0; i < 60; ++i) {
    const auto [row, column] = prompt.draw_place(generator);
    EXPECT_GE(row, 0);
    EXPECT_LT(row, 3);
    EXPECT_GE(column, 0);
    EXPECT_LT(column, 3);
  }
}

}  // namespace
}  // namespace mmtune::experts
