#include "nn/diffusion.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace mmtune::nn {
namespace {

struct Form {
  DiffusionActivation activation;
  bool weigh;
  bool given;
};

constexpr Form forms[] = {{DiffusionActivation::relu, true, false},     {DiffusionActivation::relu, false, false},
                          {DiffusionActivation::relu, false, true},     {DiffusionActivation::softmax, true, false},
                          {DiffusionActivation::softmax, false, false}, {DiffusionActivation::softmax, false, true}};

/// Rows, prompts and width are no multiples of anything that kernels like; one row of X is zero.
struct Tensors {
  Tensors(at::ScalarType type, bool given) {
    at::Generator generator = at::detail::createCPUGenerator(5);
    const auto make = [&](at::IntArrayRef shape, double std) {
      return at::empty(shape, at::kDouble).normal_(0, std, generator).to(type).requires_grad_(true);
    };
    output = make({7, 10}, 1);
    input = make({7, 10}, 1);
    keys = make({21, 10}, 0.3);
    values = make({21, 10}, 0.3);
    scale = make({1}, 0.3);
    if (given) weights = make({7}, 1);
    const at::NoGradGuard no_grad;
    input[3].zero_();
  }
  std::vector<at::Tensor> leaves() const {
    std::vector<at::Tensor> all = {output, input, keys, values, scale};
    if (weights.defined()) all.push_back(weights);
    return all;
  }
  Diffusion diffusion(const Form& form) const {
    return {.keys = keys, .values = values, .scale = scale, .weights = weights, .activation = form.activation, .weigh = form.weigh};
  }
  at::Tensor output, input, keys, values, scale, weights;
};

at::Tensor composed(const Tensors& t, const Form& form) {
  const at::Tensor scores = t.input.mm(t.keys.t());
  const at::Tensor fired = form.activation == DiffusionActivation::relu ? scores.relu() : scores.softmax(1);
  at::Tensor added = fired.mm(t.values);
  if (form.given) {
    added = added * t.weights.unsqueeze(1);
  } else if (form.weigh) {
    added = added * std::get<0>(fired.max(1, true)).detach();
  }
  return (t.output + added) * t.scale.exp();
}

std::vector<at::Tensor> gradients_of(const at::Tensor& y, const Tensors& t) {
  (y * at::arange(70, y.options()).view({7, 10}).sin()).sum().backward();
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& one : t.leaves()) gradients.push_back(one.grad());
  return gradients;
}

TEST(Diffusion, EqualsItsPlainOperators) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    const double close = type == at::kFloat ? 1e-5 : 1e-12;
    for (const Form& form : forms) {
      const Tensors ours(type, form.given), plain(type, form.given);
      const at::Tensor y = diffuse(ours.output, ours.input, ours.diffusion(form)), expected = composed(plain, form);
      EXPECT_TRUE(at::allclose(y, expected, close, close));
      const auto got = gradients_of(y, ours), wanted = gradients_of(expected, plain);
      for (std::size_t i = 0; i < wanted.size(); ++i) EXPECT_TRUE(at::allclose(got[i], wanted[i], 10 * close, 10 * close)) << i;
    }
  }
}

TEST(Diffusion, GradientsMatchFiniteDifferences) {
  for (const Form& form : forms) {
    if (form.weigh) continue;  // a constant in the backward pass
    const Tensors t(at::kDouble, form.given);
    {
      const at::NoGradGuard no_grad;
      t.input[3].fill_(0.3);  // scores of exactly zero stand at the kink
    }
    const at::Tensor cotangent = at::arange(70, at::kDouble).view({7, 10}).sin();
    const auto loss = [&] { return (diffuse(t.output, t.input, t.diffusion(form)) * cotangent).sum(); };
    loss().backward();
    const at::NoGradGuard no_grad;
    at::Generator generator = at::detail::createCPUGenerator(6);
    for (const at::Tensor& one : t.leaves()) {
      at::Tensor moved = one;
      const at::Tensor direction = at::empty(one.sizes(), at::kDouble).normal_(0, 1, generator);
      constexpr double step = 1e-6;
      moved.add_(direction, step);
      const auto above = loss().item<double>();
      moved.add_(direction, -2 * step);
      const auto below = loss().item<double>();
      moved.add_(direction, step);
      EXPECT_NEAR((above - below) / (2 * step), (one.grad() * direction).sum().item<double>(), 1e-5);
    }
  }
}

TEST(Diffusion, SplitProductsAreAlmostTheSame) {
  // Large enough to be split where the processor can; elsewhere both are the same.
  at::Generator generator = at::detail::createCPUGenerator(9);
  const auto make = [&](at::IntArrayRef shape, double std) { return at::empty(shape).normal_(0, std, generator).requires_grad_(true); };
  const at::Tensor output = make({150, 96}, 1), input = make({150, 96}, 1), keys = make({70, 96}, 0.1), values = make({70, 96}, 0.1);
  const at::Tensor scale = make({1}, 0.3), cotangent = at::arange(150 * 96, at::kFloat).view({150, 96}).sin();
  const auto run = [&](MatmulPrecision precision) {
    const at::Tensor y = diffuse(output, input, {.keys = keys, .values = values, .scale = scale, .precision = precision});
    std::vector<at::Tensor> all = {y.detach()};
    (y * cotangent).sum().backward();
    for (const at::Tensor& leaf : {output, input, keys, values, scale}) {
      all.push_back(leaf.grad().clone());
      leaf.mutable_grad().reset();
    }
    return all;
  };
  const auto exact = run(MatmulPrecision::highest), split = run(MatmulPrecision::high);
  for (std::size_t i = 0; i < exact.size(); ++i)
    EXPECT_LE((split[i] - exact[i]).norm().item<double>(), 1e-4 * exact[i].norm().item<double>()) << i;
}

TEST(Diffusion, RowsThatNothingFiresForKeepTheirOutput) {
  const Tensors t(at::kFloat, false);
  const at::NoGradGuard no_grad;
  const at::Tensor y = diffuse(t.output, t.input, t.diffusion(forms[0]));
  EXPECT_TRUE(at::allclose(y[3], t.output[3] * t.scale.exp(), 1e-6, 1e-6));
}

TEST(Diffusion, OnlyWhatLearnsGetsAGradient) {
  Tensors t(at::kFloat, false);
  for (at::Tensor* frozen : {&t.output, &t.input, &t.scale}) frozen->requires_grad_(false);
  diffuse(t.output, t.input, t.diffusion(forms[0])).sum().backward();
  EXPECT_TRUE(t.keys.grad().defined() && t.values.grad().defined());
  EXPECT_FALSE(t.output.grad().defined() || t.input.grad().defined() || t.scale.grad().defined());
  EXPECT_FALSE(diffuse(t.output, t.input, {.keys = t.keys.detach(), .values = t.values.detach()}).requires_grad());
}

TEST(Diffusion, TakesTheMemoryOfAnOutputThatNobodyElseHolds) {
  const Tensors t(at::kFloat, false);
  const at::Tensor kept = t.output.detach().clone();
  const at::Tensor y = diffuse(t.output, t.input, t.diffusion(forms[0]), true);
  EXPECT_TRUE(at::equal(t.output.detach(), kept));  // a leaf
  const at::Tensor made = t.output * 2;
  const at::Tensor same = made;  // NOLINT(performance-unnecessary-copy-initialization): the other holder
  EXPECT_NE(diffuse(made, t.input, t.diffusion(forms[0]), true).data_ptr(), made.data_ptr());
  const at::Tensor alone = t.output * 1;
  const void* const memory = alone.data_ptr();
  EXPECT_NE(diffuse(alone, t.input, t.diffusion(forms[0])).data_ptr(), memory) << "unasked";
  const at::Tensor written = diffuse(alone, t.input, t.diffusion(forms[0]), true);
  EXPECT_EQ(written.data_ptr(), memory);
  EXPECT_TRUE(at::allclose(written, y, 1e-6, 1e-6));
  written.sum().backward();  // the multiplication before it did not need its result
  EXPECT_TRUE(t.output.grad().defined());
  const at::Tensor sigmoid = t.output.sigmoid();  // whose backward pass reads its result
  const at::Tensor behind = diffuse(sigmoid, t.input, t.diffusion(forms[0]), true);
  EXPECT_NE(behind.data_ptr(), sigmoid.data_ptr());
  behind.sum().backward();
}

TEST(Diffusion, WhatIsNotANumberStaysOne) {
  const Tensors t(at::kFloat, false);
  const at::NoGradGuard no_grad;
  t.input[2][0].fill_(std::numeric_limits<float>::quiet_NaN());
  const at::Tensor y = diffuse(t.output, t.input, t.diffusion(forms[0]));
  EXPECT_TRUE(y[2].isnan().all().item<bool>());
  EXPECT_FALSE(y[1].isnan().any().item<bool>());
}

TEST(Diffusion, PartsMakeTheWhole) {
  for (const Form& form : forms) {
    const Tensors t(at::kFloat, form.given);
    const DiffusionParts parts = diffusion_parts(t.input, t.diffusion(form));
    const at::Tensor whole = (t.output + parts.added * parts.weights) * t.scale.exp();
    EXPECT_TRUE(at::allclose(whole, composed(t, form), 1e-5, 1e-5));
  }
}

/// Sequences of the given lengths with keys and values of their own.
struct OwnPrompts {
  OwnPrompts(std::vector<std::int64_t> lengths, bool given) : layout(Layout::packed(std::move(lengths))) {
    at::Generator generator = at::detail::createCPUGenerator(8);
    const auto make = [&](at::IntArrayRef shape, double std) {
      return at::empty(shape, at::kDouble).normal_(0, std, generator).requires_grad_(true);
    };
    output = make({layout.rows(), 10}, 1);
    input = make({layout.rows(), 10}, 1);
    keys = make({layout.batch(), 5, 10}, 0.3);
    values = make({layout.batch(), 5, 10}, 0.3);
    scale = make({1}, 0.3);
    if (given) weights = make({layout.rows()}, 1);
  }
  Diffusion diffusion(const Form& form) const {
    return {.keys = keys,
            .values = values,
            .scale = scale,
            .weights = weights,
            .activation = form.activation,
            .weigh = form.weigh,
            .layout = &layout};
  }
  /// A sequence after the other, with prompts that are the same for all its rows.
  at::Tensor one_by_one(const Form& form) const {
    std::vector<at::Tensor> parts;
    const std::vector<std::int64_t> offsets = layout.offsets();
    for (std::int64_t b = 0; b < layout.batch(); ++b) {
      const std::int64_t first = offsets[static_cast<std::size_t>(b)], rows = layout.length(b);
      parts.push_back(diffuse(output.narrow(0, first, rows), input.narrow(0, first, rows),
                              {.keys = keys[b],
                               .values = values[b],
                               .scale = scale,
                               .weights = weights.defined() ? weights.narrow(0, first, rows) : weights,
                               .activation = form.activation,
                               .weigh = form.weigh}));
    }
    return at::cat(parts);
  }
  std::vector<at::Tensor> leaves() const {
    std::vector<at::Tensor> all = {output, input, keys, values, scale};
    if (weights.defined()) all.push_back(weights);
    return all;
  }
  Layout layout;
  at::Tensor output, input, keys, values, scale, weights;
};

TEST(Diffusion, SequencesMayHavePromptsOfTheirOwn) {
  for (const std::vector<std::int64_t>& lengths : {std::vector<std::int64_t>{3, 3, 3}, {1, 4, 2}, {5}}) {
    for (const Form& form : forms) {
      for (const bool overwrite : {false, true}) {
        const OwnPrompts ours(lengths, form.given), single(lengths, form.given);
        const at::Tensor y = diffuse(overwrite ? ours.output * 1 : ours.output, ours.input, ours.diffusion(form), overwrite);
        const at::Tensor expected = single.one_by_one(form);
        EXPECT_TRUE(at::allclose(y, expected, 1e-12, 1e-12));
        const at::Tensor cotangent = at::arange(y.numel(), at::kDouble).view(y.sizes()).sin();
        (y * cotangent).sum().backward();
        (expected * cotangent).sum().backward();
        const std::vector<at::Tensor> got = ours.leaves(), wanted = single.leaves();
        for (std::size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(at::allclose(got[i].grad(), wanted[i].grad(), 1e-11, 1e-11)) << i;
        const DiffusionParts parts = diffusion_parts(ours.input, ours.diffusion(form));
        EXPECT_TRUE(at::allclose((ours.output + parts.added * parts.weights) * ours.scale.exp(), expected, 1e-12, 1e-12));
      }
    }
  }
}

}  // namespace
}  // namespace mmtune::nn
