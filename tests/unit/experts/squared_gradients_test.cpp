// Squared gradients of single examples in closed form, against a loop of passes over one example each.

#include "nn/squared_gradients.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <map>

#include "experts/expert.h"
#include "unit/experts/tiny_backbones.h"

namespace mmtune::experts {
namespace {

using backbones::Backbone;

struct Case {
  std::string kind, family;
  Json config;
};

constexpr std::int64_t examples = 3, length = 6;

/// All examples padded to one length, or one of them.
backbones::ModelInputs inputs_of(const std::string& family, std::int64_t first, std::int64_t count) {
  backbones::ModelInputs inputs;
  if (!reads_text(family)) {
    inputs.pixel_values =
        at::empty({examples, 3, 12, 12}).normal_(0, 1, at::detail::createCPUGenerator(2)).narrow(0, first, count).contiguous();
    return inputs;
  }
  at::Tensor ids = at::arange(examples * length, at::kLong).remainder(7).view({examples, length}).clone();
  for (std::int64_t e = 0; e < examples; ++e) ids[e][length - 1 - e] = 8;  // CLIP's end of a text
  at::Tensor mask = at::ones({examples, length}, at::kBool);
  for (std::int64_t e = 0; e < examples; ++e) mask[e].narrow(0, length - e, e).fill_(false);  // ends of 0, 1 and 2 places
  inputs.input_ids = ids.narrow(0, first, count).reshape({-1});
  inputs.text_layout = nn::Layout::uniform(count, length, mask.narrow(0, first, count).contiguous());
  return inputs;
}

std::unique_ptr<Expert> make_expert(const Case& one, Backbone& backbone) {
  const auto recipe = expert_recipe(one.kind);
  recipe->read_config(one.config, "test");
  auto expert = recipe->build(backbone, at::detail::createCPUGenerator(9));
  const at::NoGradGuard no_grad;
  at::Generator generator = at::detail::createCPUGenerator(10);
  for (const nn::NamedTensor& named : expert->tensors()) {
    at::Tensor tensor = named.tensor;
    tensor.add_(at::empty(tensor.sizes()).normal_(0, 0.2, generator));
  }
  return expert;
}

std::map<std::string, at::Tensor> take_gradients(const Expert& expert) {
  std::map<std::string, at::Tensor> gradients;
  for (const nn::NamedTensor& named : expert.tensors()) {
    at::Tensor tensor = named.tensor;
    if (tensor.grad().defined()) gradients[named.name] = tensor.grad().clone();
    tensor.mutable_grad() = at::Tensor();
  }
  return gradients;
}

class SquaredGradients : public testing::TestWithParam<Case> {};

TEST_P(SquaredGradients, EqualThoseOfALoop) {
  const auto& family = GetParam().family;
  const auto backbone = make_backbone(family);
  const auto expert = make_expert(GetParam(), *backbone);
  ASSERT_TRUE(expert->squares_gradients());
  for (const nn::ReadRows read : {nn::ReadRows::all, nn::ReadRows::first}) {
    if (read == nn::ReadRows::first && expert->beside_backbone()) continue;
    at::Tensor cotangent;
    const auto pass = [&](std::int64_t first, std::int64_t count, std::int64_t squares) {
      const nn::Context context{.read = read, .examples = squares};
      expert->before_pass(context);
      const backbones::ModelOutputs outputs = backbone->forward(inputs_of(family, first, count), context);
      // What an example's loss reads: its visible rows and the pooled one; of CLIP's text tower, where one row is read, only that.
      at::Tensor rows = outputs.last_hidden_state;
      if (family == "clip_text_model" && read == nn::ReadRows::first) rows = outputs.pooler_output;
      if (read == nn::ReadRows::all && outputs.layout.key_mask().defined())
        rows = rows * outputs.layout.key_mask().reshape({-1, 1}).to(at::kFloat);
      rows = rows.view({count, -1, rows.size(-1)});
      if (!cotangent.defined()) cotangent = at::empty(rows.sizes()).normal_(0, 1, at::detail::createCPUGenerator(11));
      at::Tensor loss = (rows * cotangent.narrow(0, first, count)).sum();
      if (outputs.pooler_output.defined()) loss = loss + outputs.pooler_output.sin().sum();
      loss.backward();
      return take_gradients(*expert);
    };
    const auto squares = pass(0, examples, examples);
    std::map<std::string, at::Tensor> expected;
    for (std::int64_t e = 0; e < examples; ++e)
      for (const auto& [name, gradient] : pass(e, 1, 0)) {
        if (!expected.contains(name)) expected[name] = at::zeros(gradient.sizes(), at::kDouble);
        expected[name] += gradient.to(at::kDouble).square();
      }
    ASSERT_EQ(squares.size(), expected.size());
    double largest = 0;
    for (const auto& [name, reference] : expected) largest = std::max(largest, reference.max().item<double>());
    for (const auto& [name, reference] : expected) {
      ASSERT_TRUE(squares.contains(name)) << name;
      ASSERT_EQ(squares.at(name).sizes(), reference.sizes()) << name;
      // Gradients of keys' biases are zero but for rounding: a shift of a key changes no softmax.
      const double tolerance = 1e-5 * reference.max().item<double>() + 1e-10 * largest;
      EXPECT_LE((squares.at(name) - reference).abs().max().item<double>(), tolerance) << name;
    }
    EXPECT_GT(largest, 1e-6);
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string family : {"bert", "vit", "clip_vision_model", "clip_text_model", "swin"}) {
    all.push_back({"lora", family, {}});
    all.push_back({"lora", family, {{"target_modules", {"*"}}, {"bias", "lora_only"}}});
    all.push_back({"lora", family, {{"use_dora", true}}});
    all.push_back({"ia3", family, {}});
    all.push_back({"adapter", family, {{"bottleneck", 5}}});
    all.push_back({"adapter", family, {{"bottleneck", 5}, {"learned_scale", true}}});
    if (family == "bert" || family == "vit") all.push_back({"adapter", family, {{"bottleneck", 5}, {"variant", "parallel"}}});
    if (family != "swin") all.push_back({"prefix", family, {{"num_virtual_tokens", 3}}});
    all.push_back({"prompt", family, {{"num_virtual_tokens", 3}, {"peft_type", "MMTUNE_PROMPT"}}});
    all.push_back({"prompt", family, {{"num_virtual_tokens", 3}, {"peft_type", "MMTUNE_DEEP_PROMPT"}}});
    all.push_back({"ladder", family, {{"reduction", 2}}});
    all.push_back({"ladder", family, {{"reduction", 2}, {"gated", false}}});
    if (family == "bert" || family == "clip_text_model") all.push_back({"bitfit", family, {}});
  }
  all.push_back({"prompt", "bert", {{"num_virtual_tokens", 3}, {"peft_type", "PROMPT_TUNING"}}});
  all.push_back({"full", "bert", {{"target_tensors", {"query.weight", "LayerNorm.weight", "output.dense.weight"}}}});
  std::erase_if(all, [](const Case& one) { return one.family == "swin" && one.config.contains("bias"); });
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, SquaredGradients, testing::ValuesIn(cases()),
                         [](const auto& info) { return std::to_string(info.index) + "_" + info.param.kind + "_" + info.param.family; });

TEST(SquaredGradients, KindsWithoutAClosedFormSaySo) {
  const auto swin = make_backbone("swin"), vit = make_backbone("vit");
  EXPECT_FALSE(make_expert({"full", "vit", {}}, *vit)->squares_gradients());
  EXPECT_FALSE(make_expert({"bitfit", "vit", {}}, *vit)->squares_gradients());  // the bias of the patch projection
  EXPECT_TRUE(make_expert({"bitfit", "vit", {{"target_tensors", {"encoder.*.bias"}}}}, *vit)->squares_gradients());
  EXPECT_FALSE(make_expert({"bitfit", "swin", {{"target_tensors", {"attention.self.query.bias"}}}}, *swin)->squares_gradients());
}

TEST(SquaredGradients, PlainAgainAfterwards) {
  const auto backbone = make_backbone("bert");
  const auto expert = make_expert({"bitfit", "bert", {}}, *backbone);
  const auto gradients = [&](std::int64_t squares) {
    const nn::Context context{.examples = squares};
    expert->before_pass(context);
    backbone->forward(inputs_of("bert", 0, examples), context).last_hidden_state.sin().sum().backward();
    return take_gradients(*expert);
  };
  const auto before = gradients(0);
  gradients(examples);
  for (const auto& [name, gradient] : gradients(0)) EXPECT_TRUE(at::equal(gradient, before.at(name))) << name;
}

TEST(SquaredGradients, ByRowCountsEveryRow) {
  const at::Tensor x = at::randn({6, 4}), weight = at::randn({3, 4}).requires_grad_(true), bias = at::randn({3}).requires_grad_(true);
  const at::Tensor cotangent = at::randn({6, 3});
  (nn::learned_linear(x, weight, bias, {.examples = 2, .by_row = true}) * cotangent).sum().backward();
  EXPECT_TRUE(at::allclose(weight.grad(), cotangent.square().t().mm(x.square())));
  EXPECT_TRUE(at::allclose(bias.grad(), cotangent.square().sum(0)));
}

TEST(SquaredGradients, ManyExamplesInParts) {
  const std::int64_t count = 40, rows = 3;
  const at::Tensor left = at::randn({count * rows, 130}), right = at::randn({count * rows, 150});
  const at::Tensor expected = left.view({count, rows, 130}).transpose(1, 2).bmm(right.view({count, rows, 150})).square().sum(0);
  EXPECT_TRUE(at::allclose(nn::squared_products(left, right, count, false), expected, 1e-4, 1e-4));
}

}  // namespace
}  // namespace mmtune::experts
