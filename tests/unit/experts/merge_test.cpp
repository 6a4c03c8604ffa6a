// Folding experts into weights: the same outputs, and the very tensors back afterwards.

#include "experts/merge.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <limits>

#include "core/error.h"

namespace mmtune::experts {
namespace {

using backbones::Backbone;

std::unique_ptr<Backbone> make_backbone() {
  return backbones::fresh_backbone({{"model_type", "bert"},
                                    {"hidden_size", 16},
                                    {"num_attention_heads", 2},
                                    {"intermediate_size", 24},
                                    {"num_hidden_layers", 2},
                                    {"vocab_size", 30},
                                    {"max_position_embeddings", 20}},
                                   21);
}

std::unique_ptr<Expert> make_expert(const std::string& kind, const Json& config, Backbone& backbone) {
  const auto recipe = expert_recipe(kind);
  recipe->read_config(config, "test");
  auto expert = recipe->build(backbone, at::detail::createCPUGenerator(9));
  const at::NoGradGuard no_grad;
  at::Generator generator = at::detail::createCPUGenerator(10);
  for (const nn::NamedTensor& named : expert->tensors()) {
    at::Tensor tensor = named.tensor;
    tensor.add_(at::empty(tensor.sizes()).normal_(0, 0.2, generator));
  }
  return expert;
}

at::Tensor output(Backbone& backbone) {
  const at::NoGradGuard no_grad;
  backbones::ModelInputs inputs;
  inputs.text_layout = nn::Layout::uniform(3, 3);
  inputs.input_ids = at::arange(9, at::kLong);
  return backbone.forward(inputs, {}).last_hidden_state.clone();
}

std::vector<at::Tensor> copies(Backbone& backbone) {
  std::vector<at::Tensor> all;
  for (const nn::TensorSlot& slot : backbone.sites().tensors) all.push_back(slot.tensor->detach().clone());
  return all;
}

struct Kind {
  std::string name;
  Json config;
};

class Merging : public testing::TestWithParam<std::vector<Kind>> {};

TEST_P(Merging, ComputesTheSameAndComesOffExactly) {
  const auto backbone = make_backbone();
  const at::Tensor plain = output(*backbone);
  const std::vector<at::Tensor> before = copies(*backbone);
  std::vector<std::unique_ptr<Expert>> experts;
  std::vector<Expert*> attached;
  for (const Kind& kind : GetParam()) {
    experts.push_back(make_expert(kind.name, kind.config, *backbone));
    attached.push_back(experts.back().get());
  }
  const at::Tensor with = output(*backbone);
  ASSERT_GT((with - plain).abs().max().item<float>(), 1e-3);
  {
    const MergedExperts merged(*backbone, attached);
    EXPECT_FALSE(merged.changed().empty());
    for (const auto& expert : experts) EXPECT_FALSE(expert->enabled());
    for (const nn::WeightSite* site : backbone->sites().weights) EXPECT_TRUE(site->low_rank.empty() && site->scalings.empty());
    for (const nn::TensorSlot& slot : backbone->sites().tensors) EXPECT_FALSE(slot.tensor->requires_grad());
    EXPECT_LE((output(*backbone) - with).abs().max().item<float>(), 1e-5);
  }
  EXPECT_TRUE(at::equal(output(*backbone), with));
  for (auto& expert : experts) expert->set_enabled(false);
  const std::vector<at::Tensor> after = copies(*backbone);
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(at::equal(before[i], after[i]));
}

const Kind lora{"lora", {{"target_modules", {"query", "value", "dense"}}}},
    dora{"lora", {{"use_dora", true}, {"target_modules", {"query", "dense"}}}},
    rslora{"lora", {{"use_rslora", true}, {"r", 3}, {"bias", "all"}, {"modules_to_save", {"pooler"}}}},
    ia3{"ia3", {{"target_modules", {"key", "value", "dense"}}, {"feedforward_modules", {"output.dense"}}}},
    bitfit{"bitfit", Json::object()}, full{"full", Json::object()};

INSTANTIATE_TEST_SUITE_P(Experts, Merging,
                         testing::Values(std::vector{lora}, std::vector{dora}, std::vector{rslora}, std::vector{ia3}, std::vector{bitfit},
                                         std::vector{full}, std::vector{lora, ia3}, std::vector{bitfit, lora}, std::vector{dora, ia3},
                                         std::vector{lora, lora}));

TEST(Merging, RefusesWhatNoWeightCanSay) {
  const auto backbone = make_backbone();
  for (const char* kind : {"adapter", "prefix", "prompt"}) {
    const auto expert = make_expert(kind, Json::object(), *backbone);
    EXPECT_THROW(MergedExperts(*backbone, {expert.get()}), Error) << kind;
    EXPECT_TRUE(expert->enabled());
  }
}

TEST(Merging, RefusesNumbersThatAreNone) {
  const auto backbone = make_backbone();
  const auto expert = make_expert("lora", Json::object(), *backbone);
  const std::vector<at::Tensor> before = copies(*backbone);
  const at::NoGradGuard no_grad;
  at::Tensor tensor = expert->tensors().front().tensor;
  // Finite itself, but not what comes of it.
  for (const double value : {static_cast<double>(std::numeric_limits<float>::quiet_NaN()), 3e38}) {
    tensor.fill_(value);
    EXPECT_THROW(MergedExperts(*backbone, {expert.get()}), Error);
    EXPECT_TRUE(expert->enabled());
  }
  const std::vector<at::Tensor> after = copies(*backbone);
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(at::equal(before[i], after[i]));
}

}  // namespace
}  // namespace mmtune::experts
