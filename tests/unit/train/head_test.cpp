#include "train/head.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

namespace mmtune::train {
namespace {

at::Generator generator() {
  return at::detail::createCPUGenerator(7);
}

at::Tensor tensor_named(const Head& head, const std::string& name) {
  for (const nn::NamedTensor& item : head.tensors())
    if (item.name == name) return item.tensor;
  return {};
}

TEST(Head, ConcatenatesFeaturesAndSharesRepeatedRows) {
  const Head head({}, {{"main", 3}, {"condition", 2}}, 4, generator());
  const at::Tensor a = at::randn({2, 3}), b = at::randn({1, 2});
  const at::Tensor logits = head({{a, {0, 1, 0}}, {b, {0, 0, 0}}}, {});
  const at::Tensor expected = at::linear(at::cat({a.index_select(0, at::tensor({0, 1, 0}, at::kLong)), b.expand({3, 2})}, 1),
                                         tensor_named(head, "weight"), tensor_named(head, "bias"));
  EXPECT_TRUE(at::allclose(logits, expected));
  EXPECT_TRUE(head.needs(0) && head.needs(1));
}

TEST(Head, ALearnedFeatureStandsInForAnAbsentModality) {
  const Head head({}, {{"main", 3}, {"condition", 2, true}}, 4, generator());
  EXPECT_FALSE(head.needs(1));
  at::Tensor absent = tensor_named(head, "absent.condition");
  absent.detach().copy_(at::tensor({5.0F, -1.0F}));
  const at::Tensor a = at::randn({2, 3}), b = at::randn({1, 2});
  const at::Tensor logits = head({{a, {0, 1}}, {b, {-1, 0}}}, {});
  const at::Tensor expected = at::linear(at::cat({a, at::stack({absent.detach(), b[0]})}, 1), tensor_named(head, "weight"));
  EXPECT_TRUE(at::allclose(logits, expected));
  logits.sum().backward();
  EXPECT_GT(absent.grad().abs().sum().item<double>(), 0);
  // Nobody has the modality: there are no rows at all.
  EXPECT_EQ(head({{a, {0, 1}}, {{}, {-1, -1}}}, {}).size(0), 2);
}

TEST(Head, MeanOfLogitsCountsOnlyWhatIsThere) {
  HeadSection section;
  section.fusion = Fusion::mean_logits;
  const Head head(section, {{"main", 3}, {"condition", 2}}, 4, generator());
  EXPECT_FALSE(head.needs(0) || head.needs(1));
  const at::Tensor a = at::randn({2, 3}), b = at::randn({1, 2});
  const at::Tensor logits = head({{a, {0, 1}}, {b, {-1, 0}}}, {});
  const at::Tensor from_a = at::linear(a, tensor_named(head, "main.weight"));
  const at::Tensor from_b = at::linear(b, tensor_named(head, "condition.weight"));
  EXPECT_TRUE(at::allclose(logits[0], from_a[0]));
  EXPECT_TRUE(at::allclose(logits[1], (from_a[1] + from_b[0]) / 2));
}

TEST(Head, MlpHasAHiddenLayerAndDropoutOnlyInTraining) {
  HeadSection section;
  section.kind = HeadKind::mlp;
  section.hidden = 5;
  section.dropout = 0.5;
  const Head head(section, {{"main", 3}}, 2, generator());
  EXPECT_EQ(head.macs(), 3 * 5 + 5 * 2);
  const at::Tensor a = at::randn({4, 3});
  const TowerFeatures features{a, {0, 1, 2, 3}};
  EXPECT_TRUE(at::equal(head({features}, {}), head({features}, {})));
  const nn::Context first{.training = true, .generator = at::detail::createCPUGenerator(1)};
  EXPECT_FALSE(at::equal(head({features}, first), head({features}, {})));
}

TEST(Head, SameSeedSameWeights) {
  const Head one({}, {{"main", 3}}, 2, generator()), other({}, {{"main", 3}}, 2, generator());
  EXPECT_TRUE(at::equal(tensor_named(one, "weight"), tensor_named(other, "weight")));
}

}  // namespace
}  // namespace mmtune::train
