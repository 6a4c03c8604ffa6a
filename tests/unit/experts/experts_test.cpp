// What every kind of expert must do: change the output, come off without a trace, have right gradients, and survive a round trip.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>

#include "experts/expert.h"
#include "unit/experts/tiny_backbones.h"

namespace mmtune::experts {
namespace {

using backbones::Backbone;

struct Case {
  std::string kind;
  std::string family;
  bool packed;
};

backbones::ModelInputs make_inputs(const Case& one) {
  backbones::ModelInputs inputs;
  if (reads_text(one.family)) {
    inputs.text_layout = one.packed ? nn::Layout::packed({3, 6}) : nn::Layout::uniform(3, 3);
    inputs.input_ids = at::arange(9, at::kLong);
  } else {
    inputs.pixel_values = at::empty({2, 3, 12, 12}).normal_(0, 1, at::detail::createCPUGenerator(2));
  }
  return inputs;
}

/// Forms of a kind that are cases of their own here.
std::string real_kind(const std::string& name) {
  static const std::map<std::string, std::string> forms = {
      {"dora", "lora"}, {"parallel", "adapter"}, {"deep_prompt", "prompt"}, {"apt_plain", "apt"}, {"apt_softmax", "apt"}};
  const auto found = forms.find(name);
  return found == forms.end() ? name : found->second;
}

Json special_config(const std::string& name) {
  if (name == "dora") return {{"use_dora", true}};
  // A norm over the two values that an eighth of these tiny widths leaves would be all but a step.
  if (name == "ladder") return {{"reduction", 2}};
  if (name == "parallel") return {{"variant", "parallel"}, {"bottleneck", 3}, {"activation", "gelu"}};
  if (name == "deep_prompt") return {{"peft_type", "MMTUNE_DEEP_PROMPT"}, {"dropout", 0.0}};
  if (name == "apt") return {{"prompts", 5}, {"rank", 2}};
  if (name == "apt_plain") return {{"prompts", 5}, {"rank", 2}, {"weight", "none"}, {"init", "paper"}};
  if (name == "apt_softmax")
    return {{"prompts", 5}, {"activation", "softmax"}, {"weight", "learned"}, {"keys", "prompts"}, {"learn_scale", false}};
  return Json::object();
}

/// The kind's expert with every tensor moved away from its start, where many are zero.
std::unique_ptr<Expert> make_expert(const std::string& kind, Backbone& backbone) {
  const auto recipe = expert_recipe(real_kind(kind));
  Json config = {{"lora_dropout", 0.3}, {"dropout", 0.3}};  // asked for in training alone
  config.update(special_config(kind));
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

class Kinds : public testing::TestWithParam<Case> {};

TEST_P(Kinds, ComesOffWithoutATrace) {
  const auto backbone = make_backbone(GetParam().family);
  const auto inputs = make_inputs(GetParam());
  const at::NoGradGuard no_grad;
  const at::Tensor before = backbone->forward(inputs, {}).last_hidden_state.clone();
  {
    const auto expert = make_expert(GetParam().kind, *backbone);
    const at::Tensor with = backbone->forward(inputs, {}).last_hidden_state;
    EXPECT_EQ(with.sizes(), before.sizes());
    EXPECT_GT((with - before).abs().max().item<float>(), 1e-3);
    expert->set_enabled(false);
    EXPECT_TRUE(at::equal(backbone->forward(inputs, {}).last_hidden_state, before));
    expert->set_enabled(true);
    EXPECT_TRUE(at::equal(backbone->forward(inputs, {}).last_hidden_state, with));
  }
  EXPECT_TRUE(at::equal(backbone->forward(inputs, {}).last_hidden_state, before));
}

TEST_P(Kinds, GradientsMatchFiniteDifferences) {
  if (GetParam().kind == "apt" || GetParam().kind == "apt_plain")
    GTEST_SKIP() << "a constant in the backward pass, and kinks that a step crosses: tests/unit/nn/diffusion_test.cpp";
  const auto backbone = make_backbone(GetParam().family);
  const auto inputs = make_inputs(GetParam());
  const auto expert = make_expert(GetParam().kind, *backbone);
  at::Generator generator = at::detail::createCPUGenerator(11);
  at::Tensor cotangent;
  const auto loss = [&] {
    const at::Tensor out = backbone->forward(inputs, {}).last_hidden_state;
    if (!cotangent.defined()) cotangent = at::empty(out.sizes()).normal_(0, 1, generator);
    return (out * cotangent).sum();
  };
  loss().backward();
  double analytic = 0, checked = 0;
  std::vector<std::pair<at::Tensor, at::Tensor>> directions;
  for (const nn::NamedTensor& named : expert->tensors()) {
    if (!named.tensor.grad().defined()) continue;  // the pooler's own tensors are not read here
    // By definition no gradient flows through the length of the rows that A and B move.
    if (GetParam().kind == "dora" && !named.name.ends_with("magnitude_vector")) continue;
    const at::Tensor direction = at::empty(named.tensor.sizes()).normal_(0, 1, generator);
    analytic += (named.tensor.grad() * direction).sum().item<double>();
    directions.emplace_back(named.tensor, direction);
    checked += 1;
  }
  ASSERT_GT(checked, 0);
  const at::NoGradGuard no_grad;
  // CLIP's text embeddings are not normalised: a fresh model's are small, and the norms behind them bend strongly.
  const double step = GetParam().family == "clip_text_model" ? 2e-4 : 2e-3;
  const auto moved = [&](double amount) {
    for (auto& [tensor, direction] : directions) tensor.add_(direction, amount);
    return loss().item<double>();
  };
  const double above = moved(step), below = moved(-2 * step);
  EXPECT_NEAR((above - below) / (2 * step), analytic, 0.02 * std::max(1.0, std::abs(analytic)));
}

/// Gradients of one training pass by name, and what memory of it was left.
std::map<std::string, at::Tensor> gradients_of(const Case& one, bool recompute, nn::ReadRows read) {
  const auto backbone = make_backbone(one.family);
  const auto expert = make_expert(one.kind, *backbone);
  nn::Context context{.training = true,
                      .read = expert->beside_backbone() ? nn::ReadRows::all : read,
                      .recompute = recompute && !expert->beside_backbone(),  // as towers do
                      .generator = at::detail::createCPUGenerator(3)};
  const at::Tensor out = backbone->forward(make_inputs(one), context).last_hidden_state;
  at::Generator generator = at::detail::createCPUGenerator(11);
  // What comes behind the backbone goes on with the step's random numbers: they must stand where a plain pass leaves them.
  const at::Tensor noise = at::empty(out.sizes()).normal_(0, 1, context.generator);
  (out * noise * at::empty(out.sizes()).normal_(0, 1, generator)).sum().backward();
  std::map<std::string, at::Tensor> gradients;
  for (const nn::NamedTensor& named : expert->tensors())
    if (named.tensor.grad().defined()) gradients[named.name] = named.tensor.grad();
  return gradients;
}

TEST_P(Kinds, RecomputedBlocksGiveTheSameGradients) {
  for (const nn::ReadRows read : {nn::ReadRows::all, nn::ReadRows::first}) {
    const auto plain = gradients_of(GetParam(), false, read), recomputed = gradients_of(GetParam(), true, read);
    ASSERT_FALSE(plain.empty());
    ASSERT_EQ(plain.size(), recomputed.size());
    for (const auto& [name, gradient] : plain) {
      ASSERT_TRUE(recomputed.contains(name)) << name;
      EXPECT_TRUE(at::allclose(recomputed.at(name), gradient, 1e-6, 1e-6)) << name;
    }
  }
}

TEST_P(Kinds, SurvivesARoundTrip) {
  const auto folder =
      std::filesystem::temp_directory_path() / ("mmtune_expert_" + std::to_string(getpid()) + "_" + GetParam().kind + GetParam().family);
  const auto inputs = make_inputs(GetParam());
  const at::NoGradGuard no_grad;
  at::Tensor expected;
  {
    const auto backbone = make_backbone(GetParam().family);
    const auto expert = make_expert(GetParam().kind, *backbone);
    expected = backbone->forward(inputs, {}).last_hidden_state;
    save_expert(*expert, folder, {{"backbone_fingerprint", "abc"}, {"backbone", "tiny"}});
  }
  const auto backbone = make_backbone(GetParam().family);
  EXPECT_THROW(load_expert(folder, *backbone, "another"), Error);
  const auto expert = load_expert(folder, *backbone, "abc");
  EXPECT_EQ(expert->kind(), real_kind(GetParam().kind));
  EXPECT_TRUE(at::equal(backbone->forward(inputs, {}).last_hidden_state, expected));
  std::filesystem::remove_all(folder);
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string kind : {"full", "bitfit", "lora", "dora", "ia3", "adapter", "prefix", "prompt", "ladder", "parallel",
                                 "deep_prompt", "apt", "apt_plain", "apt_softmax"}) {
    all.push_back({kind, "bert", false});
    all.push_back({kind, "bert", true});
    all.push_back({kind, "vit", false});
    all.push_back({kind, "clip_vision_model", false});
    if (kind != "prefix") all.push_back({kind, "swin", false});
    all.push_back({kind, "clip_text_model", false});
    all.push_back({kind, "clip_text_model", true});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, Kinds, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.kind + "_" + info.param.family + (info.param.packed ? "_packed" : ""); });

TEST(Experts, SeveralKindsOnOneBackbone) {
  const auto backbone = make_backbone("bert");
  const auto inputs = make_inputs({"", "bert", true});
  const at::NoGradGuard no_grad;
  const at::Tensor before = backbone->forward(inputs, {}).last_hidden_state;
  auto lora = make_expert("lora", *backbone);
  auto prefix = make_expert("prefix", *backbone);
  const auto adapter = make_expert("adapter", *backbone);
  EXPECT_THROW(make_expert("prefix", *backbone), Error);
  lora.reset();
  prefix->set_enabled(false);
  adapter->set_enabled(false);
  EXPECT_TRUE(at::equal(backbone->forward(inputs, {}).last_hidden_state, before));
}

TEST(Experts, DefaultTargetsAreWrittenAsTheBackboneNamesThem) {
  const auto backbone = make_backbone("clip_vision_model");
  EXPECT_EQ(make_expert("lora", *backbone)->config().at("target_modules"), Json({"q_proj", "v_proj"}));
}

TEST(Experts, DeepPromptsFollowTheWidthsOfSwinsStages) {
  const auto backbone = make_backbone("swin");
  EXPECT_THROW(make_expert("prefix", *backbone), UsageError);
  auto recipe = expert_recipe("prompt");
  recipe->read_config({{"peft_type", "MMTUNE_DEEP_PROMPT"}, {"num_virtual_tokens", 3}}, "test");
  const auto prompt = recipe->build(*backbone, at::detail::createCPUGenerator(1));
  ASSERT_EQ(prompt->tensors().size(), 3U);
  EXPECT_EQ(prompt->tensors()[1].tensor.sizes(), at::IntArrayRef({3, 8}));
  EXPECT_EQ(prompt->tensors()[2].tensor.sizes(), at::IntArrayRef({3, 16}));
  const at::NoGradGuard no_grad;
  EXPECT_EQ(backbone->forward(make_inputs({"", "swin", false}), {}).last_hidden_state.sizes(), at::IntArrayRef({2 * 9, 16}));
}

TEST(Experts, DeepPromptsMadeOnceAreThoseMadeForEveryExample) {
  for (const char* family : {"bert", "vit", "clip_vision_model"}) {
    std::vector<at::Tensor> outputs, gradients;
    for (const bool once : {false, true}) {
      const auto backbone = make_backbone(family);
      auto recipe = expert_recipe("prompt");
      recipe->read_config({{"peft_type", "MMTUNE_DEEP_PROMPT"}, {"num_virtual_tokens", 3}, {"once", once}}, "test");
      const auto prompt = recipe->build(*backbone, at::detail::createCPUGenerator(1));
      EXPECT_EQ(backbone->sites().sequences.front()->hook == nullptr, once);
      EXPECT_EQ(backbone->sites().keys_values.front()->hook != nullptr, once);
      outputs.push_back(backbone->forward(make_inputs({"", family, true}), {}).last_hidden_state);
      outputs.back().sin().sum().backward();
      gradients.push_back(prompt->tensors().front().tensor.grad());
    }
    EXPECT_TRUE(at::allclose(outputs[0], outputs[1], 1e-5, 1e-6)) << family;
    EXPECT_TRUE(at::allclose(gradients[0], gradients[1], 1e-4, 1e-6)) << family;
  }
}

TEST(Experts, AParallelAdapterStandsBehindTheNormWhereThereIsOne) {
  auto recipe = expert_recipe("adapter");
  recipe->read_config({{"variant", "parallel"}, {"behind_norm", true}}, "test");
  const auto vit = make_backbone("vit");
  EXPECT_THROW(recipe->build(*vit, at::detail::createCPUGenerator(1)), UsageError);
  const auto bert = make_backbone("bert");
  const auto inputs = make_inputs({"", "bert", true});
  const at::NoGradGuard no_grad;
  const at::Tensor before = bert->forward(inputs, {}).last_hidden_state;
  const auto adapter = recipe->build(*bert, at::detail::createCPUGenerator(1));
  EXPECT_FALSE(at::equal(bert->forward(inputs, {}).last_hidden_state, before));
  adapter->set_enabled(false);
  EXPECT_TRUE(at::equal(bert->forward(inputs, {}).last_hidden_state, before));
}

TEST(Experts, AptCountsItsWork) {
  const auto backbone = make_backbone("bert");
  const auto apt = make_expert("apt", *backbone);
  constexpr std::int64_t layers = 2, width = 16, prompts = 5, rank = 2, tokens = 7;
  EXPECT_EQ(apt->parameter_count(), layers * (prompts * width + 2 * width * rank + 1));
  EXPECT_EQ(apt->extra_macs(tokens), layers * (2 * tokens * prompts * width + 2 * prompts * width * rank));
  auto recipe = expert_recipe("apt");
  recipe->read_config({{"targets", {"layer.7.attention.output"}}}, "test");
  EXPECT_THROW(recipe->build(*backbone, at::detail::createCPUGenerator(1)), UsageError);
  EXPECT_THROW(expert_recipe("apt")->read_config({{"weight", "mean"}}, "test"), Error);
  EXPECT_THROW(expert_recipe("apt")->read_config({{"prompts", 0}}, "test"), Error);
}

TEST(Experts, NothingPassesTheBackboneBelowALadder) {
  const auto backbone = make_backbone("vit");
  auto inputs = make_inputs({"", "vit", false});
  const auto input_gradient = [&] {
    inputs.pixel_values = inputs.pixel_values.detach().requires_grad_(true);
    backbone->forward(inputs, {}).last_hidden_state.sin().sum().backward();
    return inputs.pixel_values.grad();
  };
  auto recipe = expert_recipe("ladder");
  const auto ladder = recipe->build(*backbone, at::detail::createCPUGenerator(1));  // starts at the frozen model
  EXPECT_TRUE(ladder->beside_backbone());
  const at::Tensor with = input_gradient();
  ladder->set_enabled(false);
  EXPECT_TRUE(at::equal(with, input_gradient()));
}

TEST(Experts, ALadderOfSwinCostsWhatEveryStagesRowsDo) {
  const auto backbone = make_backbone("swin");  // two blocks of 36 rows of 8, one of 9 rows of 16
  auto recipe = expert_recipe("ladder");
  recipe->read_config({{"peft_type", "MMTUNE_LADDER"}, {"reduction", 2}, {"inner_ratio", 1.0}}, "test");
  const auto ladder = recipe->build(*backbone, at::detail::createCPUGenerator(1));
  constexpr std::int64_t side = 8;
  const auto rung = [](std::int64_t rows, std::int64_t width) {
    return rows * (width * side + 3 * side * side + side * side + 2 * side * side) + 2 * rows * rows * side;
  };
  EXPECT_EQ(ladder->extra_macs(36), 36 * 8 * side + 2 * rung(36, 8) + rung(9, 16) + 9 * side * 16);
}

TEST(Experts, ALadderAndAPromptDoNotShareABlock) {
  const auto backbone = make_backbone("vit");
  const auto ladder = make_expert("ladder", *backbone);
  EXPECT_THROW(make_expert("prompt", *backbone), Error);
  EXPECT_NO_THROW(make_expert("lora", *backbone));
}

TEST(Experts, UnknownNamesGetTheNearest) {
  try {
    expert_recipe("lorra");
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean \"lora\""), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace mmtune::experts
