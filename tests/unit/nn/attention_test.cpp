// Attention's options against its plainest form: causal queries, prefixes, biases and their gradients.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "nn/attention_kernel.h"
#include "nn/layers.h"

namespace mmtune::nn {
namespace {

at::Tensor normal(at::IntArrayRef shape) {
  static const Weights source = Weights::fresh(5, 0.5);
  return source.tensor("x", shape).clone();
}

/// Attention in its plainest form: the scores of every sequence and head in one matrix, and autograd's own derivatives.
at::Tensor plain_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, std::int64_t heads, std::int64_t batch,
                           const at::Tensor& added) {
  const auto split = [&](const at::Tensor& x) { return x.view({batch, -1, heads, x.size(1) / heads}).transpose(1, 2); };
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(1)) / static_cast<double>(heads));
  const at::Tensor p = (at::matmul(split(q), split(k).transpose(2, 3)) * scale + added).softmax(-1);
  return at::matmul(p, split(v)).transpose(1, 2).reshape({-1, q.size(1)});
}

TEST(Attention, CausalQueriesSeeThePrefixAndTheirPast) {
  const std::int64_t batch = 3, length = 5, count = 2, heads = 2;
  const Layout layout = Layout::uniform(batch, length);
  std::vector<at::Tensor> x;
  for (int i = 0; i < 3; ++i) x.push_back(normal({layout.rows(), 8}).requires_grad_(true));
  const KeyValueRows prefix{normal({count, heads, 4}), normal({count, heads, 4})};
  const at::Tensor out = attention(x[0], x[1], x[2], heads, layout, layout, {.prefix = &prefix, .causal = true});
  const at::Tensor cotangent = normal({layout.rows(), 8});
  const auto found = torch::autograd::grad({out}, {x[0], x[1], x[2]}, {cotangent});

  const auto widened = [&](const at::Tensor& rows, const at::Tensor& front) {
    return at::cat({front.flatten(1).expand({batch, count, 8}), rows.view({batch, length, 8})}, 1).reshape({-1, 8});
  };
  const at::Tensor future = at::full({length, length + count}, -INFINITY).triu(count + 1);
  const at::Tensor plain = plain_attention(x[0], widened(x[1], prefix.keys), widened(x[2], prefix.values), heads, batch, future);
  const auto expected = torch::autograd::grad({plain}, {x[0], x[1], x[2]}, {cotangent});
  EXPECT_TRUE(at::allclose(out, plain, 1e-5, 1e-6));
  for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(at::allclose(found[i], expected[i], 1e-4, 1e-5));
}

TEST(Attention, ACausalTextPaddedOnTheLeftStaysFinite) {
  at::Tensor mask = at::ones({2, 4}, at::kBool);
  mask[0].narrow(0, 0, 2).fill_(false);
  const Layout layout = Layout::uniform(2, 4, mask);
  const at::Tensor q = normal({8, 4}), k = normal({8, 4}), v = normal({8, 4});
  const at::Tensor out = attention(q, k, v, 2, layout, layout, {.causal = true});
  EXPECT_TRUE(out.isfinite().all().item<bool>());
  const Layout rest = Layout::uniform(1, 2);
  const at::Tensor alone = attention(q.narrow(0, 2, 2), k.narrow(0, 2, 2), v.narrow(0, 2, 2), 2, rest, rest, {.causal = true});
  EXPECT_TRUE(at::allclose(out.narrow(0, 2, 2), alone, 1e-5, 1e-6));
}

TEST(Attention, ThePortableFormComputesTheSame) {
  const std::int64_t heads = 2;
  at::Tensor mask = at::ones({3, 4}, at::kBool);
  mask[0].narrow(0, 2, 2).fill_(false);
  const KeyValueRows prefix{normal({2, heads, 4}), normal({2, heads, 4})};
  const Layout even = Layout::uniform(3, 4), masked = Layout::uniform(3, 4, mask), ragged = Layout::packed({3, 1, 5}),
               one = Layout::uniform(3, 1);
  struct Case {
    Layout queries, keys;
    AttentionOptions options;
  };
  const std::vector<Case> cases = {{even, even, {}},
                                   {even, even, {.causal = true}},
                                   {masked, masked, {.prefix = &prefix}},
                                   {masked, masked, {.prefix = &prefix, .causal = true}},
                                   {ragged, ragged, {.prefix = &prefix}},
                                   {ragged, ragged, {.causal = true}},
                                   {one, ragged, {}},
                                   {one, masked, {.causal = true}},
                                   {even, even, {.bias = normal({heads, 4, 4}), .group_bias = normal({3, 4, 4})}}};
  for (std::size_t number = 0; number < cases.size(); ++number) {
    SCOPED_TRACE(number);
    const auto& [queries, keys, options] = cases[number];
    const at::Tensor q = normal({queries.rows(), 8}), k = normal({keys.rows(), 8}), v = normal({keys.rows(), 8}),
                     d = normal({queries.rows(), 8});
    std::vector<std::vector<at::Tensor>> found;
    for (const bool portable : {false, true}) {
      AttentionOptions own = options;
      own.portable = portable;
      const std::vector<at::Tensor> x = {q.clone().requires_grad_(true), k.clone().requires_grad_(true), v.clone().requires_grad_(true)};
      const at::Tensor out = attention(x[0], x[1], x[2], heads, queries, keys, own);
      found.push_back(torch::autograd::grad({out}, {x[0], x[1], x[2]}, {d}));
      found.back().push_back(out);
    }
    for (std::size_t i = 0; i < 4; ++i) EXPECT_TRUE(at::allclose(found[0][i], found[1][i], 1e-4, 1e-5)) << i;
  }
}

TEST(Attention, BiasesHaveTheRightGradients) {
  const std::int64_t batch = 6, length = 4, heads = 3, groups = 2;
  const Layout layout = Layout::uniform(batch, length);
  std::vector<at::Tensor> x;
  for (int i = 0; i < 3; ++i) x.push_back(normal({layout.rows(), 12}).requires_grad_(true));
  x.push_back(normal({heads, length, length}).requires_grad_(true));
  const at::Tensor group_bias = normal({groups, length, length});
  const at::Tensor out = attention(x[0], x[1], x[2], heads, layout, layout, {.bias = x[3], .group_bias = group_bias});
  const at::Tensor added = x[3] + group_bias.unsqueeze(1).repeat({batch / groups, 1, 1, 1});
  const at::Tensor plain = plain_attention(x[0], x[1], x[2], heads, batch, added);
  EXPECT_TRUE(at::allclose(out, plain, 1e-5, 1e-6));
  const at::Tensor cotangent = normal({layout.rows(), 12});
  const auto found = torch::autograd::grad({out}, {x[0], x[1], x[2], x[3]}, {cotangent});
  const auto expected = torch::autograd::grad({plain}, {x[0], x[1], x[2], x[3]}, {cotangent});
  for (std::size_t i = 0; i < 4; ++i) EXPECT_TRUE(at::allclose(found[i], expected[i], 1e-4, 1e-5));
}

/// Every kernel that this processor can run, on sizes that fill its tiles, leave rests, and need several blocks of queries.
TEST(AttentionKernels, AgreeWithThePlainForm) {
  struct Size {
    std::int64_t queries, keys, width;
  };
  for (const AttentionKernel& kernel : attention_kernels()) {
    for (const Size& size : {Size{1, 1, 1}, Size{1, 40, 16}, Size{13, 7, 5}, Size{49, 49, 32}, Size{64, 96, 64}, Size{300, 333, 24}}) {
      SCOPED_TRACE(std::string(kernel.name) + ", " + std::to_string(size.queries) + " x " + std::to_string(size.keys));
      const at::Tensor q = normal({size.queries, size.width}).requires_grad_(true),
                       k = normal({size.keys, size.width}).requires_grad_(true), v = normal({size.keys, size.width}).requires_grad_(true);
      const at::Tensor bias = normal({size.queries, size.keys}).requires_grad_(true), row = normal({size.keys});
      const at::Tensor plain = plain_attention(q, k, v, 1, 1, bias + row), cotangent = normal({size.queries, size.width});
      const auto expected = torch::autograd::grad({plain}, {q, k, v, bias}, {cotangent});

      AttentionHead head{.queries = q.const_data_ptr<float>(),
                         .keys = k.const_data_ptr<float>(),
                         .values = v.const_data_ptr<float>(),
                         .query_count = size.queries,
                         .key_count = size.keys,
                         .width = size.width,
                         .query_stride = size.width,
                         .key_stride = size.width,
                         .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(size.width)))};
      head.added[0] = {bias.const_data_ptr<float>(), size.keys};
      head.added[1] = {row.const_data_ptr<float>(), 0};
      head.added_count = 2;
      std::vector<float> scratch(static_cast<std::size_t>(kernel.scratch(head)));
      const at::Tensor out = at::full_like(q, NAN).detach();
      kernel.forward(head, out.data_ptr<float>(), scratch.data());
      EXPECT_TRUE(at::allclose(out, plain, 1e-5, 1e-6));
      std::vector<at::Tensor> found;
      for (const at::Tensor& x : {q, k, v, bias}) found.push_back(at::full_like(x, NAN).detach());
      kernel.backward(head,
                      {.out = cotangent.const_data_ptr<float>(),
                       .queries = found[0].data_ptr<float>(),
                       .keys = found[1].data_ptr<float>(),
                       .values = found[2].data_ptr<float>(),
                       .bias = found[3].data_ptr<float>()},
                      scratch.data());
      for (std::size_t i = 0; i < found.size(); ++i) EXPECT_TRUE(at::allclose(found[i], expected[i], 1e-4, 1e-5)) << i;
    }
  }
}

}  // namespace
}  // namespace mmtune::nn
