// Products of numbers split in two against double precision, and frozen maps that use them.

#include "nn/split_product.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "nn/layers.h"
#include "nn/split_kernel.h"

namespace mmtune::nn {
namespace {

constexpr MatmulPrecision high = MatmulPrecision::high;

class SplitProduct : public testing::Test {
 protected:
  void SetUp() override {
    if (split_kernel() == nullptr) GTEST_SKIP() << "this processor has no bfloat16 matrix units";
    at::manual_seed(5);
  }
};

double error(const at::Tensor& got, const at::Tensor& expected) {
  return ((got.to(at::kDouble) - expected).norm() / expected.norm()).item<double>();
}

at::Tensor exact(const at::Tensor& x, const at::Tensor& w) {
  return x.to(at::kDouble).mm(w.to(at::kDouble));
}

// Rows, depth and columns around the edges of blocks, and a depth of more than one pass.
const std::vector<std::array<std::int64_t, 3>> shapes = {{64, 64, 64},    {65, 64, 96},  {96, 65, 64},    {95, 97, 66},
                                                         {300, 1100, 70}, {70, 80, 400}, {257, 2049, 129}};

TEST_F(SplitProduct, HoldsSixteenBits) {
  for (const auto& [rows, depth, columns] : shapes) {
    const at::Tensor x = at::randn({rows, depth}), w = at::randn({columns, depth}), bias = at::randn({columns});
    const at::Tensor expected = exact(x, w.t());
    LeftFactor left(x, high);
    EXPECT_LT(error(left.times_transposed(w, {}), expected), 1e-5) << rows << " " << depth << " " << columns;
    EXPECT_LT(error(left.times_transposed(w, bias), expected + bias), 1e-5) << rows << " " << depth << " " << columns;
    at::Tensor sum;
    left.add_product(w.t().contiguous(), sum);
    EXPECT_LT(error(sum, expected), 1e-5) << rows << " " << depth << " " << columns;
    left.add_product(w.t(), sum);
    left.add_transposed(w, sum);
    EXPECT_LT(error(sum, expected * 3), 1e-5) << rows << " " << depth << " " << columns;
  }
}

TEST_F(SplitProduct, TakesRowsThatOverlap) {
  const at::Tensor samples = at::randn({100 * 32 + 96}), w = at::randn({64, 128});
  const at::Tensor windows = samples.as_strided({100, 128}, {32, 1});
  EXPECT_LT(error(LeftFactor(windows, high).times_transposed(w, {}), exact(windows, w.t())), 1e-5);
}

TEST_F(SplitProduct, KeepsWholeNumbersAndTheirRange) {
  // What 16 bits hold is exact, at any scale that float32 has.
  for (const double scale : {0x1p-100, 1.0, 0x1p50}) {
    const at::Tensor x = at::randint(-120, 121, {64, 64}).to(at::kFloat), w = at::eye(64) * scale;
    EXPECT_TRUE(at::equal(LeftFactor(x, high).times_transposed(w, {}), x * scale)) << scale;
  }
}

TEST_F(SplitProduct, SpreadsWhatIsNotFinite) {
  at::Tensor x = at::randn({64, 64});
  x[3][5] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor y = LeftFactor(x, high).times_transposed(at::randn({64, 64}), {});
  EXPECT_TRUE(y[3].isnan().all().item<bool>());
  EXPECT_TRUE(y[2].isfinite().all().item<bool>());
}

TEST_F(SplitProduct, IsTheSameForEveryNumberOfThreads) {
  const at::Tensor x = at::randn({200, 96}), w = at::randn({100, 96});
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = LeftFactor(x, high).times_transposed(w, {});
  at::set_num_threads(3);
  const at::Tensor three = LeftFactor(x, high).times_transposed(w, {});
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(one, three));
}

TEST_F(SplitProduct, LeavesSmallProductsAndTheHighestPrecisionAlone) {
  const at::Tensor x = at::randn({80, 64}), w = at::randn({64, 64});
  EXPECT_EQ(arithmetic_of(high, x, 64), Arithmetic::split);
  EXPECT_EQ(arithmetic_of(MatmulPrecision::highest, x, 64), Arithmetic::float32);
  EXPECT_EQ(arithmetic_of(high, x.narrow(0, 0, 10), 64), Arithmetic::float32);
  EXPECT_EQ(arithmetic_of(high, x, 8), Arithmetic::float32);
  EXPECT_TRUE(at::equal(LeftFactor(x, MatmulPrecision::highest).times_transposed(w, {}), at::linear(x, w)));
}

TEST_F(SplitProduct, FrozenMapsHaveTheGradientsOfFloat32) {
  const Weights weights = Weights::fresh(11, 0.2);
  const Linear first(weights / 0, 96, 64, 0), second(weights / 1, 96, 130, 0);
  const std::array<const Linear*, 2> maps{&first, &second};
  const at::Tensor seed_first = at::randn({70, 64}), seed_second = at::randn({70, 130}), start = at::randn({70, 96});
  const auto run = [&](MatmulPrecision precision) {
    const at::Tensor x = start.clone().requires_grad_(true);
    Context context;
    context.matmul_precision = precision;
    const auto y = linear_group(x, maps, context);
    ((y[0] * seed_first).sum() + (y[1] * seed_second).sum()).backward();
    return std::array<at::Tensor, 3>{y[0].detach(), y[1].detach(), x.grad()};
  };
  const auto split = run(high), plain = run(MatmulPrecision::highest);
  for (std::size_t i = 0; i < split.size(); ++i) {
    EXPECT_LT(error(split[i], plain[i].to(at::kDouble)), 1e-5);
    EXPECT_FALSE(at::equal(split[i], plain[i])) << "nothing was split";
  }
}

constexpr MatmulPrecision medium = MatmulPrecision::medium;

class RoundedProduct : public testing::Test {
 protected:
  void SetUp() override {
    if (!multiplies_bfloat16()) GTEST_SKIP() << "this processor does not multiply bfloat16 numbers";
    at::manual_seed(6);
  }
};

at::Tensor rounded(const at::Tensor& x) {
  return x.to(at::kBFloat16).to(at::kDouble);
}

TEST_F(RoundedProduct, IsThatOfRoundedFactors) {
  for (const auto& [rows, depth, columns] : shapes) {
    const at::Tensor x = at::randn({rows, depth}), w = at::randn({columns, depth}), bias = at::randn({columns});
    const at::Tensor expected = rounded(x).mm(rounded(w).t());
    LeftFactor left(x, medium);
    // What is left is the rounding of the product: 2^-9 at most, of every number.
    const at::Tensor y = left.times_transposed(w, {});
    EXPECT_LT(error(y, expected), 2e-3) << rows << " " << depth << " " << columns;
    EXPECT_TRUE(at::allclose(left.times_transposed(w, bias), y + bias));
    at::Tensor sum;
    left.add_product(w.t().contiguous(), sum);
    EXPECT_LT(error(sum, expected), 2e-3) << rows << " " << depth << " " << columns;
    left.add_product(w.t(), sum);
    left.add_transposed(w, sum);
    EXPECT_LT(error(sum, expected * 3), 2e-3) << rows << " " << depth << " " << columns;
    EXPECT_EQ(sum.scalar_type(), at::kFloat);
  }
}

TEST_F(RoundedProduct, LeavesSmallProductsAndOtherPrecisionsAlone) {
  const at::Tensor x = at::randn({80, 64});
  EXPECT_EQ(arithmetic_of(medium, x, 64), Arithmetic::rounded);
  EXPECT_EQ(arithmetic_of(MatmulPrecision::highest, x, 64), Arithmetic::float32);
  EXPECT_NE(arithmetic_of(high, x, 64), Arithmetic::rounded);
  EXPECT_EQ(arithmetic_of(medium, x.narrow(0, 0, 10), 64), Arithmetic::float32);
  EXPECT_EQ(arithmetic_of(medium, x, 8), Arithmetic::float32);
  EXPECT_EQ(arithmetic_of(medium, x.to(at::kDouble), 64), Arithmetic::float32);
}

// The gradients of frozen and of learned maps, of weights in float32 and in half precision.
TEST_F(RoundedProduct, MapsHaveTheGradientsOfFloat32) {
  const at::Tensor start = at::randn({70, 96}), bias = at::randn({130}), seed = at::randn({70, 130});
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    for (const bool learns : {false, true}) {
      if (learns && type != at::kFloat) continue;
      const at::Tensor weight = at::randn({130, 96}).to(type);
      const auto run = [&](MatmulPrecision precision) {
        const at::Tensor x = start.clone().requires_grad_(true), w = weight.clone().requires_grad_(learns),
                         b = bias.clone().requires_grad_(learns);
        const at::Tensor y = frozen_matrix(x, w, b, precision);
        (y * seed).sum().backward();
        std::vector<at::Tensor> all{y.detach(), x.grad()};
        if (learns) all.insert(all.end(), {w.grad(), b.grad()});
        return all;
      };
      const auto got = run(medium), expected = run(MatmulPrecision::highest);
      for (std::size_t i = 0; i < got.size(); ++i) {
        EXPECT_EQ(got[i].scalar_type(), at::kFloat);
        EXPECT_LT(error(got[i], expected[i].to(at::kDouble)), 6e-3) << i << " learns " << learns;
      }
      EXPECT_FALSE(at::equal(got[0], expected[0])) << "nothing was rounded";
    }
}

}  // namespace
}  // namespace mmtune::nn
