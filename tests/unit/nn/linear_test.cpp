// The frozen linear group against plain autograd, and what it must not keep.

#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "nn/layers.h"

namespace mmtune::nn {
namespace {

at::Tensor normal(at::IntArrayRef shape, std::uint64_t seed) {
  static const Weights source = Weights::fresh(7, 0.3);
  (void)seed;
  return source.tensor("x", shape);
}

struct Group {
  Group(std::int64_t in, std::vector<std::int64_t> outs) {
    const Weights weights = Weights::fresh(11, 0.2);
    for (std::size_t i = 0; i < outs.size(); ++i)
      maps.push_back(std::make_unique<Linear>(weights / static_cast<std::int64_t>(i), in, outs[i], 0));
  }
  std::vector<at::Tensor> run(const at::Tensor& x, const Context& context = {}) const {
    std::vector<const Linear*> pointers;
    for (const auto& map : maps) pointers.push_back(map.get());
    return linear_group(x, pointers, context);
  }
  std::vector<std::unique_ptr<Linear>> maps;
};

TEST(LinearGroup, EqualsPlainAutogradWithLowRankTerms) {
  const Group group(6, {4, 5});
  const at::Tensor x = normal({7, 6}, 1).clone().requires_grad_(true);
  LowRank term{normal({2, 6}, 2).clone().requires_grad_(true), normal({5, 2}, 3).clone().requires_grad_(true), 1.5, 0.0};
  group.maps[1]->site().low_rank.push_back(&term);
  const auto outputs = group.run(x);
  const at::Tensor weight0 = normal({7, 4}, 4), weight1 = normal({7, 5}, 5);
  ((outputs[0] * weight0).sum() + (outputs[1] * weight1).sum()).backward();
  const at::Tensor dx = x.grad().clone(), da = term.a.grad().clone(), db = term.b.grad().clone();

  x.mutable_grad() = at::Tensor();
  term.a.mutable_grad() = at::Tensor();
  term.b.mutable_grad() = at::Tensor();
  const WeightSite &first = group.maps[0]->site(), &second = group.maps[1]->site();
  const at::Tensor y0 = at::linear(x, first.weight, first.bias);
  const at::Tensor y1 = at::linear(x, second.weight, second.bias) + at::linear(at::linear(x, term.a), term.b) * 1.5;
  EXPECT_TRUE(at::allclose(outputs[0], y0, 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(outputs[1], y1, 1e-5, 1e-6));
  ((y0 * weight0).sum() + (y1 * weight1).sum()).backward();
  EXPECT_TRUE(at::allclose(dx, x.grad(), 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(da, term.a.grad(), 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(db, term.b.grad(), 1e-5, 1e-6));
}

TEST(LinearGroup, FrozenMapsKeepNoInput) {
  const Group group(6, {4});
  const at::Tensor leaf = normal({7, 6}, 1).clone().requires_grad_(true);
  at::Tensor x = leaf * 1.0;
  const at::Tensor y = group.run(x).front();
  const c10::weak_intrusive_ptr<at::TensorImpl> watch(x.getIntrusivePtr());
  x = at::Tensor();
  EXPECT_TRUE(watch.expired()) << "a frozen map must not keep its input for a weight gradient";
  y.sum().backward();
  EXPECT_TRUE(leaf.grad().defined());
}

TEST(LinearGroup, NothingFlowsBelowTheLowestTrainable) {
  const Group group(6, {4});
  LowRank term{normal({2, 6}, 2).clone().requires_grad_(true), normal({4, 2}, 3).clone().requires_grad_(true), 1.0, 0.0};
  group.maps[0]->site().low_rank.push_back(&term);
  const at::Tensor x = normal({7, 6}, 1);
  const at::Tensor y = group.run(x).front();
  EXPECT_TRUE(y.requires_grad());
  y.sum().backward();
  EXPECT_FALSE(x.grad().defined());
  EXPECT_TRUE(term.b.grad().defined());
}

TEST(LinearGroup, DropoutIsDrawnFromTheContext) {
  const Group group(6, {4});
  LowRank term{at::ones({2, 6}).requires_grad_(true), at::ones({4, 2}).requires_grad_(true), 1.0, 0.5};
  group.maps[0]->site().low_rank.push_back(&term);
  const at::Tensor x = at::ones({9, 6});
  const Context still;
  EXPECT_TRUE(at::equal(group.run(x, still).front(), group.run(x, still).front()));
  const auto training = [](std::uint64_t seed) {
    Context context;
    context.training = true;
    at::Generator generator = at::detail::createCPUGenerator(seed);
    context.generator = generator;
    return context;
  };
  EXPECT_TRUE(at::equal(group.run(x, training(3)).front(), group.run(x, training(3)).front()));
  EXPECT_FALSE(at::equal(group.run(x, training(3)).front(), group.run(x, training(4)).front()));
}

TEST(Sites, PatternsMatchLikePeftsTargets) {
  EXPECT_TRUE(matches("encoder.layer.0.attention.self.query", "query"));
  EXPECT_TRUE(matches("encoder.layer.0.attention.self.query", "self.query"));
  EXPECT_FALSE(matches("encoder.layer.0.attention.self.query", "uery"));
  EXPECT_TRUE(matches("encoder.layer.0.attention.self.query", "encoder.layer.0.*"));
  EXPECT_TRUE(matches("encoder.layer.0.attention.attention.query", "q_proj"));
  EXPECT_FALSE(matches("encoder.layer.0.attention.self.key", "q_proj"));
  EXPECT_TRUE(matches("query", "query"));
}

}  // namespace
}  // namespace mmtune::nn
