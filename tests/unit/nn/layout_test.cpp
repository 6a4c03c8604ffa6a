// Layouts, prompt rows, pooling and attention: packed sequences against padded ones.

#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "nn/layers.h"

namespace mmtune::nn {
namespace {

at::Tensor normal(at::IntArrayRef shape) {
  static const Weights source = Weights::fresh(5, 0.5);
  return source.tensor("x", shape).clone();
}

TEST(Tokens, PromptsComeAndGo) {
  for (const Layout& layout : {Layout::uniform(2, 3), Layout::packed({3, 5})}) {
    const at::Tensor rows = normal({layout.rows(), 4});
    Tokens tokens{rows, layout};
    const at::Tensor prompts = normal({2, 2, 4});
    tokens.insert_prompts(prompts, 1);
    EXPECT_EQ(tokens.rows.size(0), layout.rows() + 4);
    EXPECT_TRUE(at::equal(tokens.prompts(), prompts));
    EXPECT_TRUE(at::equal(first_rows(tokens.rows, tokens.layout), first_rows(rows, layout)));
    const at::Tensor shared = normal({2, 4});
    tokens.replace_prompts(shared);
    EXPECT_TRUE(at::equal(tokens.prompts()[1], shared));
    tokens.remove_prompts();
    EXPECT_TRUE(at::equal(tokens.rows, rows));
    EXPECT_EQ(tokens.layout.lengths(), layout.lengths());
  }
}

TEST(Tokens, MaskGrowsWithPrompts) {
  const at::Tensor mask = at::tensor({1, 1, 0, 1, 0, 0}, at::kLong).view({2, 3}).to(at::kBool);
  Tokens tokens{normal({6, 4}), Layout::uniform(2, 3, mask)};
  tokens.insert_prompts(normal({1, 4}), 1);
  EXPECT_TRUE(at::equal(tokens.layout.key_mask().to(at::kLong), at::tensor({1, 1, 1, 0, 1, 1, 0, 0}, at::kLong).view({2, 4})));
}

/// The rows of packed sequences laid out padded: [B, T, D] and the mask.
std::pair<at::Tensor, at::Tensor> padded(const at::Tensor& rows, const Layout& layout, std::int64_t length) {
  at::Tensor out = at::zeros({layout.batch(), length, rows.size(1)}), mask = at::zeros({layout.batch(), length}, at::kBool);
  const auto offsets = layout.offsets();
  for (std::int64_t b = 0; b < layout.batch(); ++b) {
    const std::int64_t n = layout.length(b);
    out[b].narrow(0, 0, n).copy_(rows.narrow(0, offsets[static_cast<std::size_t>(b)], n));
    mask[b].narrow(0, 0, n).fill_(true);
  }
  return {out.flatten(0, 1), mask};
}

TEST(Attention, PackedEqualsPaddedForwardAndBackward) {
  const Layout layout = Layout::packed({3, 7, 1, 5});
  const std::int64_t heads = 2, width = 8;
  std::vector<at::Tensor> packed;
  for (int i = 0; i < 3; ++i) packed.push_back(normal({layout.rows(), width}).requires_grad_(true));
  const at::Tensor cotangent = normal({layout.rows(), width});
  const at::Tensor out = attention(packed[0], packed[1], packed[2], heads, layout, layout);
  (out * cotangent).sum().backward();

  std::vector<at::Tensor> dense;
  at::Tensor mask;
  for (const at::Tensor& one : packed) {
    auto [rows, visible] = padded(one.detach(), layout, 7);
    dense.push_back(rows.requires_grad_(true));
    mask = visible;
  }
  const Layout uniform = Layout::uniform(4, 7, mask);
  const at::Tensor wide = attention(dense[0], dense[1], dense[2], heads, uniform, uniform);
  const at::Tensor keep = mask.view({-1}).nonzero().squeeze(1);
  EXPECT_TRUE(at::allclose(out, wide.index_select(0, keep), 1e-5, 1e-6));
  (wide.index_select(0, keep) * cotangent).sum().backward();
  for (int i = 0; i < 3; ++i)
    EXPECT_TRUE(at::allclose(packed[static_cast<std::size_t>(i)].grad(), dense[static_cast<std::size_t>(i)].grad().index_select(0, keep),
                             1e-4, 1e-5));
}

TEST(Attention, PrefixRowsAreKeysOfEverySequence) {
  const Layout layout = Layout::packed({2, 4});
  const at::Tensor q = normal({6, 4}), k = normal({6, 4}), v = normal({6, 4});
  const KeyValueRows prefix{normal({3, 2, 2}), normal({3, 2, 2})};
  const at::Tensor out = attention(q, k, v, 2, layout, layout, {.prefix = &prefix});
  const at::Tensor keys = at::cat({prefix.keys.flatten(1), k.narrow(0, 2, 4)}),
                   values = at::cat({prefix.values.flatten(1), v.narrow(0, 2, 4)});
  const at::Tensor second = attention(q.narrow(0, 2, 4), keys, values, 2, Layout::uniform(1, 4), Layout::uniform(1, 7));
  EXPECT_TRUE(at::allclose(out.narrow(0, 2, 4), second, 1e-5, 1e-6));
}

TEST(Pooling, MeanIgnoresMaskedRows) {
  const Layout layout = Layout::packed({3, 5});
  const at::Tensor rows = normal({8, 4});
  const auto [dense, mask] = padded(rows, layout, 5);
  EXPECT_TRUE(at::allclose(mean_rows(rows, layout), mean_rows(dense, Layout::uniform(2, 5, mask)), 1e-6, 1e-6));
}

}  // namespace
}  // namespace mmtune::nn
