#include "experts/interpolated.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "core/error.h"
#include "train/explain_pi.h"

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
                                    {"max_position_embeddings", 40}},
                                   21);
}

backbones::ModelInputs make_inputs() {
  backbones::ModelInputs inputs;
  inputs.text_layout = nn::Layout::packed({3, 6});
  inputs.input_ids = at::arange(9, at::kLong);
  return inputs;
}

std::unique_ptr<Expert> make_expert(const std::string& kind, const Json& config, Backbone& backbone, std::uint64_t seed) {
  const auto recipe = expert_recipe(kind);
  recipe->read_config(config, "test");
  auto expert = recipe->build(backbone, at::detail::createCPUGenerator(seed));
  const at::NoGradGuard no_grad;
  at::Generator generator = at::detail::createCPUGenerator(seed + 100);
  for (const nn::NamedTensor& named : expert->tensors()) {
    at::Tensor tensor = named.tensor;
    tensor.add_(at::empty(tensor.sizes()).normal_(0, 0.2, generator));
  }
  return expert;
}

InterpolationPart part_of(const std::string& kind, const Json& config, Backbone& backbone, std::uint64_t seed) {
  const auto expert = make_expert(kind, config, backbone, seed);
  InterpolationPart part{.task = "t" + std::to_string(seed),
                         .folder = "runs/t" + std::to_string(seed),
                         .tensors = {},
                         .config = expert->config(),
                         .kind = kind};
  for (const nn::NamedTensor& one : expert->tensors()) part.tensors.push_back({one.name, one.tensor.detach().clone()});
  return part;
}

struct Kind {
  std::string kind;
  std::vector<Json> configs;  ///< one an expert
};

std::vector<InterpolationPart> parts_of(const Kind& kind, Backbone& backbone) {
  std::vector<InterpolationPart> parts;
  for (std::size_t i = 0; i < kind.configs.size(); ++i) parts.push_back(part_of(kind.kind, kind.configs[i], backbone, i));
  return parts;
}

at::Tensor output_of(Backbone& backbone) {
  return backbone.forward(make_inputs(), {}).last_hidden_state;
}

class Averages : public testing::TestWithParam<Kind> {};

TEST_P(Averages, GradientsMatchFiniteDifferences) {
  const auto backbone = make_backbone();
  Interpolated average(*backbone, parts_of(GetParam(), *backbone), 0, {.start = {0.5, 0.2, 0.3}});
  const at::Tensor cotangent = at::empty({9, 16}).normal_(0, 1, at::detail::createCPUGenerator(5));
  const auto loss = [&] {
    average.before_pass({});
    return (output_of(*backbone) * cotangent).sum();
  };
  loss().backward();
  average.after_backward();
  at::Generator generator = at::detail::createCPUGenerator(11);
  for (const bool coefficients : {true, false}) {
    double analytic = 0;
    std::vector<std::pair<at::Tensor, at::Tensor>> directions;
    for (const nn::NamedTensor& named : average.tensors()) {
      if ((named.name == "coefficients") != coefficients) continue;
      ASSERT_TRUE(named.tensor.requires_grad()) << named.name;
      if (!named.tensor.grad().defined()) continue;  // the pooler's, which nothing reads
      const at::Tensor direction = at::empty(named.tensor.sizes()).normal_(0, 1, generator);
      analytic += (named.tensor.grad() * direction).sum().item<double>();
      directions.emplace_back(named.tensor, direction);
    }
    ASSERT_FALSE(directions.empty());
    EXPECT_NE(analytic, 0.0);
    const at::NoGradGuard no_grad;
    constexpr double step = 2e-3;
    const auto moved = [&](double amount) {
      for (auto& [tensor, direction] : directions) tensor.add_(direction, amount);
      return loss().item<double>();
    };
    const double above = moved(step), below = moved(-2 * step);
    EXPECT_NEAR((above - below) / (2 * step), analytic, 0.02 * std::max(1.0, std::abs(analytic)));
    moved(step);
  }
}

TEST_P(Averages, GradientsOfTwoPassesAddUp) {
  const auto backbone = make_backbone();
  Interpolated average(*backbone, parts_of(GetParam(), *backbone), 0, {});
  const auto pass = [&] {
    average.before_pass({});
    output_of(*backbone).sin().sum().backward();
  };
  const auto take = [&] {
    std::vector<at::Tensor> all;
    for (const nn::NamedTensor& named : average.tensors()) {
      at::Tensor tensor = named.tensor;
      all.push_back(tensor.grad().defined() ? tensor.grad().clone() : at::Tensor());
      tensor.mutable_grad() = at::Tensor();
    }
    return all;
  };
  pass();
  average.after_backward();
  const std::vector<at::Tensor> once = take();
  pass();
  pass();
  average.after_backward();
  const std::vector<at::Tensor> twice = take();
  for (std::size_t i = 0; i < once.size(); ++i) {
    if (!once[i].defined()) continue;
    EXPECT_TRUE(at::allclose(twice[i], once[i] * 2, 1e-4, 1e-5)) << average.tensors()[i].name;
  }
}

TEST_P(Averages, OneExpertAloneIsThatExpert) {
  const auto backbone = make_backbone();
  std::vector<at::Tensor> alone;
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < 3; ++i) {
    const auto expert = make_expert(GetParam().kind, GetParam().configs[i], *backbone, i);
    alone.push_back(output_of(*backbone).clone());
  }
  Interpolated average(*backbone, parts_of(GetParam(), *backbone), 1, {});
  for (std::size_t i = 0; i < 3; ++i) {
    average.choose(i);
    average.before_pass({});
    EXPECT_TRUE(at::allclose(output_of(*backbone), alone[i], 1e-5, 1e-5)) << i;
  }
  EXPECT_NEAR(average.coefficients()[0][2], 1.0, 1e-12);
}

TEST_P(Averages, KeepsOneExpertOfTheKind) {
  const auto backbone = make_backbone();
  const at::NoGradGuard no_grad;
  at::Tensor expected;
  std::vector<at::Tensor> kept;
  Json config;
  {
    Interpolated average(*backbone, parts_of(GetParam(), *backbone), 0, {.start = {0.2, 0.3, 0.5}});
    average.before_pass({});
    expected = output_of(*backbone).clone();
    EXPECT_EQ(average.kept().kind(), GetParam().kind);
    config = average.kept().config();
    for (const nn::NamedTensor& one : average.kept().tensors()) kept.push_back(one.tensor.detach().clone());
  }
  const auto recipe = expert_recipe(GetParam().kind);
  recipe->read_config(config, "test");
  const auto single = recipe->build(*backbone, at::detail::createCPUGenerator(1));
  const std::vector<nn::NamedTensor> tensors = single->tensors();
  ASSERT_EQ(tensors.size(), kept.size());
  for (std::size_t i = 0; i < kept.size(); ++i) {
    at::Tensor tensor = tensors[i].tensor;
    ASSERT_EQ(tensor.sizes(), kept[i].sizes()) << tensors[i].name;
    tensor.copy_(kept[i]);
  }
  EXPECT_TRUE(at::allclose(output_of(*backbone), expected, 1e-6, 1e-6));
}

std::vector<Kind> kinds() {
  const auto three = [](const std::string& kind, const Json& config) { return Kind{kind, {config, config, config}}; };
  return {three("adapter", {{"bottleneck", 5}, {"activation", "gelu"}}), three("prefix", {{"num_virtual_tokens", 3}}),
          three("prompt", {{"num_virtual_tokens", 3}, {"peft_type", "MMTUNE_DEEP_PROMPT"}}),
          three("prompt", {{"num_virtual_tokens", 3}, {"peft_type", "MMTUNE_PROMPT"}}), three("lora", {{"r", 3}}),
          // Ranks, scales and ways to scale differ: the updates have one sum all the same.
          Kind{"lora",
               {{{"r", 2}, {"lora_alpha", 3}}, {{"r", 3}, {"use_rslora", true}}, {{"r", 1}, {"rank_pattern", {{"encoder.layer.0.*", 4}}}}}},
          three("lora", {{"r", 2}, {"bias", "all"}}), three("ia3", {}), three("bitfit", {}),
          // Without what finite differences cannot follow: a weight through which no gradient flows, and a bend.
          three("apt", {{"prompts", 3}, {"rank", 2}, {"activation", "softmax"}, {"weight", "none"}}), three("ladder", {{"reduction", 2}})};
}

INSTANTIATE_TEST_SUITE_P(All, Averages, testing::ValuesIn(kinds()),
                         [](const auto& info) { return std::to_string(info.index) + "_" + info.param.kind; });

std::string message(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Interpolated, CoefficientsAreSharedAsAsked) {
  const auto backbone = make_backbone();
  const Kind lora{"lora",
                  {{{"target_modules", {"query", "value", "attention.output.dense", "intermediate.dense"}}},
                   {{"target_modules", {"query", "value", "attention.output.dense", "intermediate.dense"}}}}};
  EXPECT_EQ(Interpolated(*backbone, parts_of(lora, *backbone), {}, {}).sites(),
            (std::vector<std::string>{"encoder.layer.0.attention", "encoder.layer.0.intermediate.dense", "encoder.layer.1.attention",
                                      "encoder.layer.1.intermediate.dense"}));
  EXPECT_EQ(Interpolated(*backbone, parts_of(lora, *backbone), {}, {.sharing = CoefficientSharing::layer}).sites(),
            (std::vector<std::string>{"layer 0", "layer 1"}));
  EXPECT_EQ(Interpolated(*backbone, parts_of(lora, *backbone), {}, {.sharing = CoefficientSharing::global}).sites().size(), 1U);
  const Kind prefix{"prefix", {{}, {}}};
  EXPECT_EQ(Interpolated(*backbone, parts_of(prefix, *backbone), {}, {}).sites().size(), 2U);
}

TEST(Interpolated, FrozenExpertsAndFixedCoefficientsDoNotLearn) {
  const auto backbone = make_backbone();
  const Kind adapter{"adapter", {{{"bottleneck", 3}}, {{"bottleneck", 3}}}};
  const auto learned = [](const Interpolated& average) {
    std::int64_t count = 0;
    for (const nn::NamedTensor& one : average.tensors())
      if (one.tensor.requires_grad()) ++count;
    return count;
  };
  EXPECT_EQ(learned(Interpolated(*backbone, parts_of(adapter, *backbone), 0, {.train_experts = false})), 1);
  const Interpolated fixed(*backbone, parts_of(adapter, *backbone), 0, {.train_experts = false, .train_coefficients = false});
  EXPECT_EQ(learned(fixed), 0);
  EXPECT_FALSE(fixed.can_choose());
}

TEST(Interpolated, TaskArithmeticCountsFromTheUntrainedStart) {
  const auto backbone = make_backbone();
  const Kind ia3{"ia3", {{}, {}}};
  std::vector<InterpolationPart> parts = parts_of(ia3, *backbone);
  const at::Tensor a = parts[0].tensors[0].tensor.clone(), b = parts[1].tensors[0].tensor.clone();
  Interpolated sum(*backbone, std::move(parts), {}, {.weights = {1.0, 0.5}});
  EXPECT_TRUE(at::allclose(sum.kept().tensors()[0].tensor, 1 + (a - 1) + 0.5 * (b - 1), 1e-6, 1e-6));
}

TEST(Interpolated, OnceGivesOneExpertThatLearns) {
  const auto backbone = make_backbone();
  const Kind adapter{"adapter", {{{"bottleneck", 3}}, {{"bottleneck", 3}}}};
  Interpolated once(*backbone, parts_of(adapter, *backbone), 0, {.once = true});
  ASSERT_EQ(once.tensors().size(), once.kept().tensors().size());
  EXPECT_TRUE(once.tensors()[0].tensor.is_same(once.kept().tensors()[0].tensor));
  once.before_pass({});
  output_of(*backbone).sin().sum().backward();
  once.after_backward();
  EXPECT_TRUE(once.tensors()[0].tensor.grad().defined());
}

TEST(Interpolated, RefusesWhatCannotBeAveraged) {
  const auto backbone = make_backbone();
  const auto refused = [&](const Kind& kind) { return message([&] { Interpolated(*backbone, parts_of(kind, *backbone), 0, {}); }); };
  const std::string widths = refused({"adapter", {{{"bottleneck", 3}}, {{"bottleneck", 4}}}});
  EXPECT_NE(widths.find("different shapes"), std::string::npos) << widths;
  EXPECT_NE(widths.find("runs/t1 beside runs/t0"), std::string::npos) << widths;
  EXPECT_NE(refused({"prefix", {{{"num_virtual_tokens", 3}}, {{"num_virtual_tokens", 5}}}}).find("[5, "), std::string::npos);
  EXPECT_NE(refused({"lora", {{}, {{"use_dora", true}}}}).find("DoRA"), std::string::npos);
  EXPECT_NE(refused({"lora", {{}, {{"target_modules", {"key"}}}}}).find("different sites"), std::string::npos);
  EXPECT_NE(refused({"adapter", {{{"activation", "relu"}}, {{"activation", "gelu"}}}}).find("\"activation\""), std::string::npos);
  EXPECT_NE(message([&] { read_part("/nonexistent/run", *backbone, ""); }).find("is gone"), std::string::npos);
}

TEST(Interpolated, PlaneThroughThreeExperts) {
  const auto backbone = make_backbone();
  const Kind lora{"lora", {{{"r", 2}}, {{"r", 2}}, {{"r", 3}}}};
  Interpolated average(*backbone, parts_of(lora, *backbone), 0, {});
  const train::PlaneAxes axes = train::plane_axes(average.products(), 0, 1, 2);
  const auto update = [&](double x, double y) {
    average.fix(axes.weights(x, y));
    const std::vector<nn::NamedTensor> kept = average.kept().tensors();
    std::vector<at::Tensor> all;
    for (std::size_t t = 0; t < kept.size(); t += 2)
      all.push_back(kept[t + 1].tensor.detach().mm(kept[t].tensor.detach()).flatten() * 16.0 / 2.0);  // the first one's alpha / r
    return at::cat(all);
  };
  const at::Tensor first = update(0, 0), second = update(axes.u_length, 0);
  const at::Tensor third = update(axes.along * axes.u_length, axes.v_length);
  average.fix({0, 1, 0});
  EXPECT_NEAR((second - first).norm().item<double>(), axes.u_length, 1e-3 * axes.u_length);
  const double from_line = std::hypot(axes.along * axes.u_length, axes.v_length);
  EXPECT_NEAR((third - first).norm().item<double>(), from_line, 1e-3 * from_line);
  const std::vector<double> corner = axes.weights(axes.along * axes.u_length, axes.v_length);
  EXPECT_NEAR(corner[0], 0, 1e-9);
  EXPECT_NEAR(corner[1], 0, 1e-9);
  EXPECT_NEAR(corner[2], 1, 1e-9);
  EXPECT_THROW(train::plane_axes({{0, 0, 0}, {0, 1, 2}, {0, 2, 4}}, 0, 1, 2), Error);
}

}  // namespace
}  // namespace mmtune::experts
