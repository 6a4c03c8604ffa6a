// The training pass of a tower against the backbone's own.

#include "train/pretrain/young_vit.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace mmtune::train {
namespace {

PretrainModelSection tiny() {
  PretrainModelSection section;
  section.image_size = 16;
  section.patch_size = 4;
  section.width = 24;
  section.layers = 3;
  section.heads = 3;
  section.inner = 40;
  return section;
}

at::Tensor some_pixels() {
  at::manual_seed(5);
  return at::randn({3, 3, 16, 16});
}

/// Fresh weights are so small that the blocks would hardly matter.
void disturb(const YoungVit& tower) {
  const at::NoGradGuard no_gradients;
  at::manual_seed(6);
  for (const nn::NamedTensor& item : tower.tensors()) item.tensor.add_(at::randn_like(item.tensor), 0.15);
}

TEST(YoungVit, ComputesWhatTheBackboneComputes) {
  const YoungVit tower(tiny(), 7);
  disturb(tower);
  const at::NoGradGuard no_gradients;
  const at::Tensor pixels = some_pixels();
  const at::Tensor expected = tower.backbone().forward_named({{"pixel_values", pixels}}, {}).at("last_hidden_state");
  const at::Tensor got = tower(pixels, false);
  ASSERT_EQ(got.sizes(), expected.sizes());
  EXPECT_LT((got - expected).abs().max().item<float>(), 1e-4);
  // Blocks that did nothing would make the comparison empty.
  EXPECT_GT((got.select(1, 0)[0] - got.select(1, 0)[1]).abs().max().item<float>(), 1e-2);
}

TEST(YoungVit, StaysCloseInBfloat16) {
  const YoungVit tower(tiny(), 7);
  disturb(tower);
  const at::NoGradGuard no_gradients;
  const at::Tensor pixels = some_pixels();
  const at::Tensor expected = tower(pixels, false), got = tower(pixels, true);
  EXPECT_EQ(got.scalar_type(), at::kFloat);
  EXPECT_LT((got - expected).norm().item<float>() / expected.norm().item<float>(), 0.03);
}

TEST(YoungVit, ShownAllPatchesInAnotherOrderItComputesTheSame) {
  const YoungVit tower(tiny(), 7);
  disturb(tower);
  const at::NoGradGuard no_gradients;
  const at::Tensor pixels = some_pixels();
  const at::Tensor order = at::randperm(16).unsqueeze(0).expand({3, 16}).contiguous();
  const at::Tensor whole = tower(pixels, false), shuffled = tower(pixels, false, order), part = tower(pixels, false, order.slice(1, 0, 5));
  EXPECT_LT((whole.select(1, 0) - shuffled.select(1, 0)).abs().max().item<float>(), 1e-4);
  EXPECT_EQ(part.sizes(), (at::IntArrayRef{3, 6, 24}));
  EXPECT_GT((whole.select(1, 0) - part.select(1, 0)).abs().max().item<float>(), 1e-2);
}

TEST(YoungVit, EveryTensorLearnsAndThePoolerIsLeftOut) {
  const YoungVit tower(tiny(), 7);
  tower(some_pixels(), true).select(1, 0).square().mul(at::randn({24})).sum().backward();
  std::int64_t parameters = 0;
  for (const nn::NamedTensor& item : tower.tensors()) {
    EXPECT_FALSE(item.name.starts_with("pooler."));
    ASSERT_TRUE(item.tensor.grad().defined()) << item.name;
    parameters += item.tensor.numel();
  }
  const std::int64_t block = 4 * (24 * 24 + 24) + 2 * 24 * 40 + 40 + 24 + 4 * 24;
  EXPECT_EQ(parameters, 48 * 24 + 24 + 24 + 17 * 24 + 3 * block + 2 * 24);
}

}  // namespace
}  // namespace mmtune::train
