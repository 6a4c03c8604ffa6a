// Views and noise: what stays the same, what may change, and that the generator decides all of it.

#include "train/pretrain/augment.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace mmtune::train {
namespace {

at::Tensor pictures() {
  at::manual_seed(3);
  return at::randint(0, 256, {6, 3, 32, 32}, at::kByte);
}

at::Tensor all(bool value) {
  return at::full({6}, value, at::kBool);
}

PretrainViewsSection still() {
  PretrainViewsSection section;
  section.whole = 1.0;
  section.colour = 0.0;
  section.grey = 0.0;
  return section;
}

TEST(Augment, AWholeViewWithoutColourChangesIsThePicture) {
  const at::Tensor view = draw_views(pictures(), all(false), still(), seeded_generator(1, 2));
  EXPECT_LT((view * 255.0 - pictures().to(at::kFloat)).abs().max().item<float>(), 0.01);
}

TEST(Augment, OnlyPicturesThatMayAreMirrored) {
  const at::Tensor x = pictures().to(at::kFloat) / 255.0;
  int mirrored = 0;
  for (std::uint64_t draw = 0; draw < 8; ++draw) {
    const at::Tensor view = draw_views(pictures(), all(true), still(), seeded_generator(1, draw));
    for (std::int64_t i = 0; i < 6; ++i) {
      const bool same = at::allclose(view[i], x[i], 0, 1e-4), flipped = at::allclose(view[i], x[i].flip({2}), 0, 1e-4);
      EXPECT_TRUE(same || flipped);
      mirrored += flipped;
    }
  }
  EXPECT_GT(mirrored, 10);
  EXPECT_LT(mirrored, 38);
}

TEST(Augment, ViewsAreInRangeAndDecidedByTheGenerator) {
  PretrainViewsSection section;
  section.grey = 0.5;
  const at::Tensor a = draw_views(pictures(), all(true), section, seeded_generator(1, 2));
  EXPECT_TRUE(at::equal(a, draw_views(pictures(), all(true), section, seeded_generator(1, 2))));
  EXPECT_FALSE(at::equal(a, draw_views(pictures(), all(true), section, seeded_generator(1, 3))));
  EXPECT_GE(a.min().item<float>(), 0.0F);
  EXPECT_LE(a.max().item<float>(), 1.0F);
}

TEST(Augment, ACropShowsLess) {
  // A ramp from left to right: a crop spans less of it.
  const at::Tensor ramp = at::arange(0, 256, 8, at::kByte).view({1, 1, 1, 32}).expand({6, 3, 32, 32}).contiguous();
  PretrainViewsSection section = still();
  section.whole = 0.0;
  section.min_area = 0.25;
  const at::Tensor view = draw_views(ramp, all(false), section, seeded_generator(4, 0));
  const at::Tensor span = (view.amax({1, 2, 3}) - view.amin({1, 2, 3})) * 255.0;
  EXPECT_LT(span.min().item<float>(), 225.0F);
  EXPECT_GT(span.min().item<float>(), 80.0F);
}

TEST(Augment, ShrinkingAverages) {
  const at::Tensor x = at::arange(16, at::kFloat).view({1, 1, 4, 4}).expand({1, 3, 4, 4}).contiguous();
  const at::Tensor small = shrink(x, 2);
  EXPECT_FLOAT_EQ(small[0][0][0][0].item<float>(), (0 + 1 + 4 + 5) / 4.0F);
  EXPECT_FLOAT_EQ(small[0][2][1][1].item<float>(), (10 + 11 + 14 + 15) / 4.0F);
}

TEST(Augment, NoNoiseChangesNothing) {
  const PretrainNoiseSection none{.shift = 0, .brightness = 0, .erase = 0};
  const at::Tensor x = pictures().to(at::kFloat) / 255.0;
  EXPECT_TRUE(at::equal(add_noise(x, none, seeded_generator(1, 1)), x));
}

TEST(Augment, ErasesOneRectangleOfBoundedSize) {
  const PretrainNoiseSection section{.shift = 0, .brightness = 0, .erase = 1};
  const at::Tensor x = at::ones({6, 3, 32, 32});
  const at::Tensor erased = add_noise(x, section, seeded_generator(1, 1)).select(1, 0).eq(0.5F);
  for (std::int64_t i = 0; i < 6; ++i) {
    const auto rows = erased[i].any(1).sum().item<std::int64_t>(), columns = erased[i].any(0).sum().item<std::int64_t>();
    EXPECT_EQ(erased[i].sum().item<std::int64_t>(), rows * columns);
    EXPECT_GE(rows, 3);
    EXPECT_LE(rows, 17);
    EXPECT_GE(columns, 3);
    EXPECT_LE(columns, 17);
  }
}

}  // namespace
}  // namespace mmtune::train
