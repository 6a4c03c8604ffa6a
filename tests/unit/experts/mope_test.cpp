// MoPE: its pieces, what it does to a batch, and what it refuses. Equality with the released code is the golden program's business.

#include "experts/mope.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "mope_support.h"

namespace mmtune::experts {
namespace {

using namespace mope_tests;  // NOLINT(google-build-using-namespace): this test's own helpers

/// Largest difference between the gradient of `loss` at `x` (float64) and central differences, over the largest gradient.
double gradient_error(const std::function<at::Tensor(const at::Tensor&)>& loss, const at::Tensor& x) {
  const at::Tensor leaf = x.clone().requires_grad_(true);
  loss(leaf).backward();
  const at::Tensor flat = x.clone().flatten(), numeric = at::zeros_like(flat);
  constexpr double step = 1e-5;
  for (std::int64_t i = 0; i < flat.numel(); ++i) {
    const auto at = [&](double by) {
      at::Tensor moved = flat.clone();
      moved[i] += by;
      return loss(moved.view(x.sizes())).item<double>();
    };
    numeric[i] = (at(step) - at(-step)) / (2 * step);
  }
  return ((numeric - leaf.grad().flatten()).abs().max() / numeric.abs().max()).item<double>();
}

TEST(MopeParts, GradientsMatchFiniteDifferences) {
  const at::Tensor logits = random({5, 4}, 1).to(at::kDouble), experts = random({4, 2, 3}, 2).to(at::kDouble);
  const at::Tensor weights = random({5, 2, 3}, 4).to(at::kDouble);
  const auto mixed = [&](const at::Tensor& x) { return (mope_mixture(mope_scores(x), experts) * weights).sum(); };
  EXPECT_LT(gradient_error(mixed, logits), 1e-6);
  const auto balanced = [](const at::Tensor& x) { return mope_importance(mope_scores(x * 3), 0.0).sum(); };
  EXPECT_LT(gradient_error(balanced, logits), 1e-6);
  const auto chosen = [&](const at::Tensor& x) { return (mope_mixture(mope_scores(x, 2), experts) * weights).sum(); };
  EXPECT_LT(gradient_error(chosen, logits), 1e-6);
}

TEST(MopeParts, ImportanceIsZeroBelowItsThreshold) {
  // Shares 2 and 1 of 3: mean 1.5, variance 0.5, squared coefficient of variation 2/9.
  const at::Tensor scores = at::tensor({1.0, 0.0, 1.0, 0.0, 0.0, 1.0}).view({3, 2}).requires_grad_(true);
  EXPECT_NEAR(mope_variation(scores).item<double>(), 2.0 / 9.0, 1e-6);
  EXPECT_NEAR(mope_importance(scores, 0.2).item<double>(), 2.0 / 9.0, 1e-6);
  const at::Tensor below = mope_importance(scores, 0.3);
  EXPECT_EQ(below.item<double>(), 0.0);
  below.backward();
  EXPECT_EQ(scores.grad().abs().max().item<double>(), 0.0);
}

TEST(MopeParts, OneExpertIsAlwaysInBalance) {
  EXPECT_EQ(mope_importance(at::ones({4, 1}), 0.1).item<double>(), 0.0);
}

TEST(MopeParts, KeysAreOrthonormal) {
  at::Generator generator = at::detail::createCPUGenerator(5);
  for (const auto& [width, experts] : {std::pair<std::int64_t, std::int64_t>{10, 4}, {4, 10}, {3, 3}}) {
    const at::Tensor keys = mope_keys(width, experts, generator);
    ASSERT_EQ(keys.sizes(), at::IntArrayRef({width, experts}));
    const at::Tensor gram = width >= experts ? keys.t().mm(keys) : keys.mm(keys.t());
    EXPECT_LT((gram - at::eye(gram.size(0))).abs().max().item<double>(), 1e-5);
  }
}

TEST(MopeParts, TopOneTakesOneExpert) {
  const at::Tensor scores = mope_scores(random({6, 5}, 8), 1);
  EXPECT_TRUE(at::equal(scores.ne(0).sum(1), at::ones({6}, at::kLong)));
  EXPECT_TRUE(at::allclose(scores.sum(1), at::ones({6})));
}

class Families : public testing::TestWithParam<std::string> {};

TEST_P(Families, ConditionsTheFeatureAndComesOff) {
  const auto backbone = make_backbone(GetParam());
  const auto inputs = make_inputs(GetParam(), 3);
  nn::Context context = conditioned(3);
  const at::NoGradGuard no_grad;
  const at::Tensor before = feature(*backbone, inputs, context);
  {
    const auto mope = make_mope(small(), *backbone);
    const at::Tensor with = feature(*backbone, inputs, context);
    EXPECT_GT((with - before).abs().max().item<float>(), 1e-4);
    context.complementary = context.complementary.clone();
    context.complementary[1] += 1;
    const at::Tensor moved = (feature(*backbone, inputs, context) - with).abs().amax({1});
    EXPECT_GT(moved[1].item<float>(), 1e-5);
    EXPECT_EQ(moved[0].item<float>(), 0.0F);  // every example has its own prompts
    EXPECT_EQ(moved[2].item<float>(), 0.0F);
    mope->set_enabled(false);
    EXPECT_TRUE(at::equal(feature(*backbone, inputs, context), before));
  }
  EXPECT_TRUE(at::equal(feature(*backbone, inputs, context), before));
}

TEST_P(Families, GradientsMatchFiniteDifferences) {
  const auto backbone = make_backbone(GetParam());
  const auto inputs = make_inputs(GetParam(), 3);
  MopeOptions options = small();
  options.importance_threshold = 0.0;
  options.importance_weight = 1.0;
  const auto mope = make_mope(options, *backbone);
  const nn::Context context = conditioned(3);
  const at::Tensor cotangent = random({3, backbone->info().width}, 11);
  const auto loss = [&] {
    const at::Tensor task = (feature(*backbone, inputs, context) * cotangent).sum();
    return task + mope->auxiliary_loss();  // of the pass before
  };
  loss().backward();
  double analytic = 0;
  std::vector<std::pair<at::Tensor, at::Tensor>> directions;
  at::Generator generator = at::detail::createCPUGenerator(12);
  for (const nn::NamedTensor& item : mope->tensors()) {
    if (!item.tensor.requires_grad() || item.name == "absent") continue;
    ASSERT_TRUE(item.tensor.grad().defined()) << item.name;
    const at::Tensor direction = at::empty(item.tensor.sizes()).normal_(0, 1, generator);
    analytic += (item.tensor.grad() * direction).sum().item<double>();
    directions.emplace_back(item.tensor, direction);
  }
  const auto moved = [&](double by) {
    const at::NoGradGuard no_grad;
    for (auto& [tensor, direction] : directions) tensor.add_(direction, by);
    const auto value = loss().item<double>();
    for (auto& [tensor, direction] : directions) tensor.sub_(direction, by);
    return value;
  };
  constexpr double step = 1e-3;
  const double numeric = (moved(step) - moved(-step)) / (2 * step);
  EXPECT_NEAR(analytic, numeric, 0.02 * std::max(1.0, std::abs(numeric)));
}

TEST_P(Families, BatchOfOneAndOneExpert) {
  for (const std::int64_t experts : {1, 4}) {
    const auto backbone = make_backbone(GetParam());
    const auto mope = make_mope(small(experts), *backbone);
    nn::Context context = conditioned(1);
    context.training = true;
    context.generator = at::detail::createCPUGenerator(4);
    const at::Tensor out = feature(*backbone, make_inputs(GetParam(), 1), context);
    at::Tensor loss = out.sum();
    const at::Tensor added = mope->auxiliary_loss();
    EXPECT_EQ(added.defined(), experts > 1);
    if (added.defined()) loss = loss + added;
    EXPECT_TRUE(std::isfinite(loss.item<double>()));
    loss.backward();
    for (const nn::NamedTensor& item : mope->tensors())
      EXPECT_TRUE(!item.tensor.grad().defined() || item.tensor.grad().isfinite().all().item<bool>()) << item.name;
  }
}

TEST_P(Families, EveryAblationRuns) {
  std::vector<MopeOptions> ablations(12, small());
  ablations[0].static_prompt = false;
  ablations[1].dynamic_prompt = false;
  ablations[2].mapped_prompt = false;
  ablations[3].router_inputs = MopeRouterInputs::main;
  ablations[4].router_inputs = MopeRouterInputs::complementary;
  ablations[5].top_k = 1;
  ablations[6].keys = MopeKeys::learned;
  ablations[7].variant = MopeVariant::cross_only;
  ablations[8].mapper = MopeMapper::Kind::linear;
  ablations[9].deep = false;
  ablations[10].importance_weight = 0;
  ablations[11].mapper = MopeMapper::Kind::plain;
  for (std::size_t i = 0; i < ablations.size(); ++i) {
    SCOPED_TRACE(i);
    const auto backbone = make_backbone(GetParam());
    const auto mope = make_mope(ablations[i], *backbone);
    const at::Tensor out = feature(*backbone, make_inputs(GetParam(), 2), conditioned(2));
    EXPECT_TRUE(out.isfinite().all().item<bool>());
    out.sum().backward();
    EXPECT_EQ(mope->routing().empty(), i == 1);
  }
}

TEST_P(Families, NoiseIsForTraining) {
  const auto backbone = make_backbone(GetParam());
  MopeOptions options = small();
  options.dropout = 0;
  const auto mope = make_mope(options, *backbone);
  const auto inputs = make_inputs(GetParam(), 2);
  nn::Context context = conditioned(2);
  const at::NoGradGuard no_grad;
  const at::Tensor still = feature(*backbone, inputs, context);
  EXPECT_TRUE(at::equal(feature(*backbone, inputs, context), still));
  context.training = true;
  context.generator = at::detail::createCPUGenerator(4);
  EXPECT_FALSE(at::equal(feature(*backbone, inputs, context), still));
}

TEST_P(Families, AnAbsentModalityIsLearned) {
  const auto backbone = make_backbone(GetParam());
  const auto mope = make_mope(small(), *backbone);
  const auto inputs = make_inputs(GetParam(), 2);
  nn::Context context = conditioned(2);
  context.complementary_there = at::tensor({1, 0}).to(at::kBool);
  const at::Tensor out = feature(*backbone, inputs, context);
  // Not the plain sum: behind a norm that is always the same.
  (out * random(out.sizes(), 13)).sum().backward();
  const at::Tensor absent = mope->tensors().front().tensor;
  ASSERT_EQ(mope->tensors().front().name, "absent");
  EXPECT_GT(absent.grad().abs().max().item<float>(), 0.0F);
  // What stands in the absent row is of no consequence.
  context.complementary = context.complementary.clone();
  context.complementary[1].fill_(100);
  EXPECT_TRUE(at::equal(feature(*backbone, inputs, context), out));
}

TEST_P(Families, ReloadsBitEqual) {
  const auto folder = std::filesystem::temp_directory_path() / ("mmtune-mope-" + std::to_string(getpid()) + GetParam());
  const auto inputs = make_inputs(GetParam(), 2);
  const nn::Context context = conditioned(2);
  const at::NoGradGuard no_grad;
  at::Tensor before;
  {
    const auto backbone = make_backbone(GetParam());
    const auto mope = make_mope(small(), *backbone);
    before = feature(*backbone, inputs, context);
    save_expert(*mope, folder, {{"backbone", "tiny"}, {"backbone_fingerprint", "one"}});
  }
  const auto backbone = make_backbone(GetParam());
  EXPECT_THROW(load_expert(folder, *backbone, "another"), Error);
  const auto loaded = load_expert(folder, *backbone, "one");
  EXPECT_EQ(loaded->kind(), "mope");
  EXPECT_TRUE(at::equal(feature(*backbone, inputs, context), before));
  std::filesystem::remove_all(folder);
}

INSTANTIATE_TEST_SUITE_P(Backbones, Families, testing::Values("bert", "vit", "swin", "wav2vec2", "wav2vec2_stable"),
                         [](const auto& info) { return info.param; });

TEST_P(Families, SeveralComplementaryFeatures) {
  for (const MopeCombine combine : {MopeCombine::concat, MopeCombine::sum}) {
    const auto backbone = make_backbone(GetParam());
    MopeOptions options = small();
    options.complementary_widths = {4, 4, 4};
    options.combine = combine;
    const auto mope = make_mope(options, *backbone);
    EXPECT_EQ(mope->options().complementary_width(), combine == MopeCombine::sum ? 4 : 12);
    for (const nn::NamedTensor& item : mope->tensors())
      if (item.name == "absent") item.tensor.detach().copy_(random({12}, 14));
    const auto inputs = make_inputs(GetParam(), 2);
    const at::NoGradGuard no_grad;
    nn::Context context;
    context.complementary = random({2, 12}, 5);
    context.complementary_there = at::tensor({1, 1, 1, 1, 0, 1}).to(at::kBool).view({2, 3});
    const at::Tensor out = feature(*backbone, inputs, context);
    // The second tower's feature of example 1 is not looked at, its third one is.
    context.complementary = context.complementary.clone();
    context.complementary[1].narrow(0, 4, 4).fill_(50);
    EXPECT_TRUE(at::equal(feature(*backbone, inputs, context), out));
    context.complementary[1].narrow(0, 8, 4).add_(1);
    const at::Tensor moved = (feature(*backbone, inputs, context) - out).abs().amax({1});
    EXPECT_EQ(moved[0].item<float>(), 0.0F);
    EXPECT_GT(moved[1].item<float>(), 1e-6);
    // What stands in is the learned feature.
    context.complementary_there = at::Tensor();
    context.complementary[1].narrow(0, 8, 4).sub_(1);
    context.complementary[1].narrow(0, 4, 4).copy_(random({12}, 14).narrow(0, 4, 4));
    EXPECT_LT((feature(*backbone, inputs, context) - out).abs().max().item<float>(), 1e-6);
  }
}

TEST(Mope, SumsWhatItIsToldTo) {
  // y = y1 + y2 through an identity mapper and no router: the same as one tower that gives the sum.
  const auto backbone = make_backbone("bert");
  const auto inputs = make_inputs("bert", 2);
  MopeOptions options = small();
  options.mapper = MopeMapper::Kind::identity;
  options.dynamic_prompt = options.static_prompt = false;
  const at::Tensor first = random({2, 16}, 5), second = random({2, 16}, 6);
  const at::NoGradGuard no_grad;
  nn::Context context;
  at::Tensor together;
  {
    options.complementary_widths = {16, 16};
    options.combine = MopeCombine::sum;
    const auto mope = make_mope(options, *backbone);
    context.complementary = at::cat({first, second}, 1);
    together = feature(*backbone, inputs, context);
  }
  options.complementary_widths = {16};
  const auto mope = make_mope(options, *backbone);
  context.complementary = first + second;
  EXPECT_TRUE(at::equal(feature(*backbone, inputs, context), together));
}

TEST(Mope, SeveralFeaturesReload) {
  const auto folder = std::filesystem::temp_directory_path() / ("mmtune-mope-several-" + std::to_string(getpid()));
  const auto backbone = make_backbone("vit");
  MopeOptions options = small();
  options.complementary_widths = {4, 6};
  save_expert(*make_mope(options, *backbone), folder, {{"backbone", "tiny"}, {"backbone_fingerprint", "one"}});
  const auto loaded = load_expert(folder, *backbone, "one");
  EXPECT_EQ(loaded->complementary_widths(), (std::vector<std::int64_t>{4, 6}));
  std::filesystem::remove_all(folder);
}

TEST(Mope, KeysStayAsTheyAreUnlessLearned) {
  const auto backbone = make_backbone("vit");
  std::int64_t frozen = 0;
  const auto mope = make_mope(small(), *backbone);
  for (const nn::NamedTensor& item : mope->tensors()) {
    if (!item.name.ends_with("router.keys")) continue;
    ++frozen;
    EXPECT_FALSE(item.tensor.requires_grad());
  }
  EXPECT_EQ(frozen, backbone->info().layers);
}

TEST(Mope, CountsParametersOfTheSpecification) {
  // Swin-B's shape in small: N = P·C0 + (K+1)·l·ΣC over routed blocks + Σ(Dm+1)C_i + (Dy+1)·Dm + 2·Dm + Σ[(C+1)·ds + (Dy+1)·dc] + absent.
  const auto backbone = make_backbone("swin");
  const auto mope = make_mope(small(4), *backbone);
  const std::int64_t routed = 8 + 16, prompts = 5 * 8;
  const std::int64_t expected = prompts + 5 * 2 * routed + 6 * (8 + 16) + 7 * 5 + 2 * 5 + (9 + 17) * 2 + 2 * 7 * 8 + condition_width;
  EXPECT_EQ(mope->parameter_count(), expected);
}

TEST(Mope, ReleasedWindowOrderMixesTheBatch) {
  for (const bool released : {false, true}) {
    const auto backbone = make_backbone("swin");
    MopeOptions options = small();
    options.released_window_order = released;
    const auto mope = make_mope(options, *backbone);
    backbones::ModelInputs inputs = make_inputs("swin", 2);
    const nn::Context context = conditioned(2);
    const at::NoGradGuard no_grad;
    const at::Tensor before = feature(*backbone, inputs, context);
    inputs.pixel_values = inputs.pixel_values.clone();
    inputs.pixel_values[1] = random({3, 16, 16}, 30);
    const at::Tensor after = feature(*backbone, inputs, context);
    EXPECT_EQ(at::equal(before[0], after[0]), !released);
  }
}

TEST(Mope, RefusesWhatCannotWork) {
  const auto backbone = make_backbone("bert");
  MopeOptions options = small();
  options.prompt_length = 10;  // 21 tokens for 20 positions
  EXPECT_THROW(make_mope(options, *backbone), UsageError);
  options = small();
  options.complementary_widths = {0};
  EXPECT_THROW(make_mope(options, *backbone), UsageError);
  options = small();
  options.mapper = MopeMapper::Kind::identity;  // 6 is not 16
  EXPECT_THROW(make_mope(options, *backbone), UsageError);
  options = small();
  options.static_prompt = options.dynamic_prompt = options.mapped_prompt = false;
  EXPECT_THROW(make_mope(options, *backbone), UsageError);
  options = small();
  options.complementary_widths = {4, 6};
  options.combine = MopeCombine::sum;
  EXPECT_THROW(make_mope(options, *backbone), UsageError);
  const auto mope = make_mope(small(), *backbone);
  EXPECT_THROW(backbone->forward(make_inputs("bert", 2), {}), UsageError);
}

/// A backbone that does not let anybody in between its layers.
class Closed final : public Backbone {
 public:
  Closed() {
    info_.architecture = "closed";
    info_.width = 16;
  }
  backbones::ModelOutputs forward(const backbones::ModelInputs&, const nn::Context&) override { return {}; }
  std::int64_t macs(std::int64_t, bool) const override { return 0; }
  backbones::TensorMap forward_named(const backbones::TensorMap&, const nn::Context&) override { return {}; }
};

TEST(Mope, RefusesABackboneWithoutAccessToItsLayers) {
  Closed closed;
  try {
    make_mope(small(), closed);
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("no access to the tokens between its layers"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("closed"), std::string::npos);
  }
}

}  // namespace
}  // namespace mmtune::experts
