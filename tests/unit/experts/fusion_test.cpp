// Adapters side by side: mixture and attention against their formulas, what learns, and that a saved one opens without its sources.

#include "experts/fusion.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "core/error.h"
#include "core/files.h"
#include "core/recipe.h"
#include "nn/layout.h"

namespace mmtune::experts {
namespace {

namespace fs = std::filesystem;

/// The recipe of the kind by itself.
struct Wrapped {
  std::shared_ptr<ExpertRecipe> recipe = fusion_recipe();
};
void declare(OptionVisitor& visitor, Wrapped& wrapped) {
  wrapped.recipe->declare(visitor);
}

constexpr std::int64_t width = 16, bottleneck = 3;

std::unique_ptr<backbones::Backbone> backbone() {
  return backbones::fresh_backbone({{"model_type", "bert"},
                                    {"hidden_size", width},
                                    {"num_attention_heads", 2},
                                    {"intermediate_size", 24},
                                    {"num_hidden_layers", 2},
                                    {"vocab_size", 30},
                                    {"max_position_embeddings", 40}},
                                   1);
}

class FusionTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("mmtune-fusion-" + std::to_string(::getpid()));
    fs::create_directories(folder_);
    for (int i = 0; i < 3; ++i) write_adapter("a" + std::to_string(i), {{"bottleneck", bottleneck}}, static_cast<std::uint64_t>(i));
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write_adapter(const std::string& name, const Json& config, std::uint64_t seed) {
    const auto model = backbone();
    const auto recipe = expert_recipe("adapter");
    recipe->read_config(config, "test");
    const auto adapter = recipe->build(*model, at::detail::createCPUGenerator(seed));
    const at::NoGradGuard no_grad;
    for (const nn::NamedTensor& one : adapter->tensors()) {
      at::Tensor tensor = one.tensor;
      tensor.copy_(at::randn(tensor.sizes(), at::detail::createCPUGenerator(seed + 7), at::kFloat));
    }
    save_expert(*adapter, folder_ / name, Json::object());
  }

  std::unique_ptr<Expert> fused(backbones::Backbone& model, const std::string& mode, bool train = false,
                                const std::vector<std::string>& names = {"a0", "a1", "a2"}) {
    std::string list;
    for (const std::string& name : names) list += (list.empty() ? "\"" : ", \"") + (folder_ / name).string() + "\"";
    write_file_atomically(folder_ / "fusion.toml",
                          "experts = [" + list + "]\nmode = \"" + mode + "\"\ntrain_experts = " + (train ? "true" : "false") + "\n");
    const Wrapped wrapped = read_recipe<Wrapped>(folder_ / "fusion.toml");
    return wrapped.recipe->build_on(model, "", at::detail::createCPUGenerator(3));
  }

  fs::path folder_;
};

at::Tensor named(const Expert& expert, const std::string& name) {
  for (const nn::NamedTensor& one : expert.tensors())
    if (one.name == name) return one.tensor;
  throw std::runtime_error("no tensor " + name);
}

at::Tensor rows() {
  return at::randn({6, width}, at::detail::createCPUGenerator(5), at::kFloat);
}

/// What adapter `number` adds to rows.
at::Tensor added(const Expert& fusion, const std::string& site, std::int64_t number, const at::Tensor& x) {
  const auto part = [&](const std::string& name) { return named(fusion, site + ".fusion." + name).select(0, number); };
  return at::linear(at::relu(at::linear(x, part("down_proj.weight"), part("down_proj.bias"))), part("up_proj.weight"),
                    part("up_proj.bias"));
}

TEST_F(FusionTest, MixtureWeighsOutputs) {
  const auto model = backbone();
  const auto fusion = fused(*model, "mixture");
  const at::Tensor x = rows();
  for (const nn::SublayerSite* site : model->sites().sublayers) {
    at::Tensor logits = named(*fusion, site->name + ".fusion.coefficients");
    {
      const at::NoGradGuard no_grad;
      logits.copy_(at::tensor({0.5, -1.0, 0.2}));
    }
    const at::Tensor shares = logits.softmax(0);
    at::Tensor expected = x;
    for (std::int64_t i = 0; i < 3; ++i) expected = expected + added(*fusion, site->name, i, x) * shares[i];
    EXPECT_TRUE(at::allclose((*site)(x, x, nn::Layout::uniform(1, 6), {}), expected, 1e-5, 1e-5));
  }
}

TEST_F(FusionTest, AttentionAsksEveryAdapter) {
  const auto model = backbone();
  const auto fusion = fused(*model, "attention");
  const at::Tensor x = rows();
  const nn::SublayerSite& site = *model->sites().sublayers[1];
  const auto own = [&](const std::string& name) { return named(*fusion, site.name + ".fusion." + name); };
  {
    const at::NoGradGuard no_grad;
    own("query.weight").copy_(at::randn({width, width}, at::detail::createCPUGenerator(8), at::kFloat) * 0.3);
    own("value.weight").add_(0.1);
  }
  std::vector<at::Tensor> made, scores;
  for (std::int64_t i = 0; i < 3; ++i) {
    made.push_back(added(*fusion, site.name, i, x));
    scores.push_back((at::linear(x, own("query.weight")) * at::linear(made.back(), own("key.weight"))).sum(1));
  }
  const at::Tensor shares = at::stack(scores).softmax(0);
  at::Tensor expected = x;
  for (std::int64_t i = 0; i < 3; ++i)
    expected = expected + at::linear(made[static_cast<std::size_t>(i)], own("value.weight")) * shares[i].unsqueeze(1);
  EXPECT_TRUE(at::allclose(site(x, x, nn::Layout::uniform(1, 6), {}), expected, 1e-4, 1e-4));
}

TEST_F(FusionTest, TheAdaptersLearnOnlyWhereAsked) {
  const auto model = backbone();
  for (const bool train : {false, true}) {
    const auto fusion = fused(*model, "attention", train);
    for (const nn::NamedTensor& one : fusion->tensors())
      EXPECT_EQ(one.tensor.requires_grad(), train || one.name.find("_proj.") == std::string::npos) << one.name;
  }
}

TEST_F(FusionTest, OpensWithoutTheAdaptersItCameFrom) {
  for (const std::string mode : {"attention", "mixture"}) {
    const auto model = backbone();
    const auto fusion = fused(*model, mode);
    save_expert(*fusion, folder_ / "fused", Json::object());
    const at::Tensor x = rows();
    const nn::SublayerSite& site = *model->sites().sublayers.front();
    const at::Tensor expected = site(x, x, nn::Layout::uniform(1, 6), {});
    fusion->set_enabled(false);
    EXPECT_TRUE(at::equal(site(x, x, nn::Layout::uniform(1, 6), {}), x));
    const auto again = load_expert(folder_ / "fused", *model, "", true);
    EXPECT_EQ(again->kind(), "fusion");
    EXPECT_TRUE(at::equal(site(x, x, nn::Layout::uniform(1, 6), {}), expected));
    fs::remove_all(folder_ / "fused");
  }
}

TEST_F(FusionTest, RefusesAdaptersThatDoNotFit) {
  const auto model = backbone();
  write_adapter("wide", {{"bottleneck", bottleneck + 1}}, 9);
  write_adapter("scaled", {{"bottleneck", bottleneck}, {"learned_scale", true}}, 9);
  EXPECT_THROW(fused(*model, "attention", false, {"a0", "wide"}), Error);
  EXPECT_THROW(fused(*model, "attention", false, {"a0", "scaled"}), Error);
  EXPECT_THROW(fused(*model, "attention", false, {"a0", "gone"}), Error);
}

}  // namespace
}  // namespace mmtune::experts
