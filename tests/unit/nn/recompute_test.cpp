// Gradient checkpointing: what is computed when, what is kept, and whose random numbers are used.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include "nn/recompute.h"

namespace mmtune::nn {
namespace {

using Weak = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;

struct Probe {
  int runs = 0;
  std::vector<Weak> inner;  ///< a result that the block's backward pass needs
};

/// tanh(dropout(x) w), with a look at what becomes of the product.
BlockFunction block_of(Probe& probe, const at::Tensor& w) {
  return [&probe, w](Tokens& tokens, const Context& context) {
    ++probe.runs;
    const at::Tensor result = at::tanh(dropout(tokens.rows, 0.5, context).mm(w));
    probe.inner.emplace_back(result.getIntrusivePtr());
    tokens.rows = result * result;
  };
}

Tokens tokens_of(const at::Tensor& rows) {
  return {rows, Layout::uniform(1, rows.size(0))};
}

at::Tensor values(at::IntArrayRef shape, std::uint64_t seed) {
  return at::empty(shape).normal_(0, 1, at::detail::createCPUGenerator(seed));
}

TEST(Recompute, KeepsNothingOfABlockAndRunsItTwice) {
  for (const bool recompute : {false, true}) {
    const at::Tensor w = values({4, 4}, 1).requires_grad_(true);
    Probe probe;
    Tokens tokens = tokens_of(values({3, 4}, 2));
    run_block(tokens, {.recompute = recompute}, block_of(probe, w));
    ASSERT_TRUE(tokens.rows.requires_grad());
    EXPECT_EQ(probe.runs, 1);
    EXPECT_EQ(probe.inner.front().expired(), recompute);
    tokens.rows.sum().backward();
    EXPECT_EQ(probe.runs, recompute ? 2 : 1);
    EXPECT_TRUE(w.grad().defined());
  }
}

TEST(Recompute, AFrozenBlockBelowAllThatLearnsRunsOnceAndHasNoGraph) {
  Probe probe;
  Tokens tokens = tokens_of(values({3, 4}, 2));
  run_block(tokens, {.recompute = true}, block_of(probe, values({4, 4}, 1)));
  EXPECT_FALSE(tokens.rows.requires_grad());
  EXPECT_EQ(probe.runs, 1);
}

TEST(Recompute, NothingIsRecordedWithoutGradients) {
  const at::NoGradGuard no_grad;
  Probe probe;
  Tokens tokens = tokens_of(values({3, 4}, 2));
  run_block(tokens, {.recompute = true}, block_of(probe, values({4, 4}, 1).requires_grad_(true)));
  EXPECT_FALSE(tokens.rows.requires_grad());
}

struct Gradients {
  at::Tensor output, x, w, v, complementary, drawn;
};

/// Two blocks with dropout, the second reads the context's complementary feature; random numbers are drawn behind them too.
Gradients run_two(bool recompute) {
  const at::Tensor x = values({3, 4}, 2).requires_grad_(true), w = values({4, 4}, 1).requires_grad_(true);
  const at::Tensor v = values({4, 4}, 3).requires_grad_(true), source = values({1, 4}, 4).requires_grad_(true);
  Probe probe;
  Context context{.training = true, .recompute = recompute, .generator = at::detail::createCPUGenerator(5)};
  context.complementary = source * 2;  // has a graph of its own, which two blocks share
  Tokens tokens = tokens_of(x);
  for (const at::Tensor& weight : {w, v}) {
    run_block(tokens, context, [&probe, weight](Tokens& inner, const Context& with) {
      block_of(probe, weight)(inner, with);
      inner.rows = inner.rows + with.complementary;
    });
  }
  const at::Tensor drawn = at::empty({3, 4}).normal_(0, 1, context.generator);
  (tokens.rows * drawn).sum().backward();
  return {tokens.rows.detach(), x.grad(), w.grad(), v.grad(), source.grad(), drawn};
}

TEST(Recompute, DropoutAndTheComplementaryFeatureAreReproduced) {
  const Gradients plain = run_two(false), again = run_two(true);
  EXPECT_TRUE(at::equal(plain.output, again.output));
  EXPECT_TRUE(at::equal(plain.drawn, again.drawn));
  EXPECT_TRUE(at::equal(plain.x, again.x));
  EXPECT_TRUE(at::equal(plain.w, again.w));
  EXPECT_TRUE(at::equal(plain.v, again.v));
  EXPECT_TRUE(at::allclose(plain.complementary, again.complementary, 1e-6, 1e-6));
}

}  // namespace
}  // namespace mmtune::nn
