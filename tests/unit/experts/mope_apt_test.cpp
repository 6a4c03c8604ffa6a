// MoPE with its prompts in APT's form: equal to a plain composition of operators, alone for every example, and refused where it cannot be.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "mope_support.h"

namespace mmtune::experts {
namespace {

using namespace mope_tests;  // NOLINT(google-build-using-namespace): this test's own helpers

MopeOptions diffused(std::int64_t experts = 3) {
  MopeOptions options = small(experts);
  options.prompt_form = MopePromptForm::apt;
  options.rank = 2;
  options.init_range = 0.3;  // so that it can be seen
  return options;
}

/// What MopeDiffusion does, in LibTorch's operators, with the prompts that the expert's own parts make.
class Composition final : public nn::SublayerHook {
 public:
  Composition(const Mope& mope, std::size_t block, const nn::SequenceSite& sequence, const nn::SublayerSite& attention, at::Tensor y)
      : mope_(&mope), block_(block), y_(std::move(y)) {
    for (const nn::NamedTensor& item : mope.tensors()) {
      if (item.name == sequence.name + ".static") fixed_ = item.tensor;
      if (item.name == attention.name + ".APT.mm.0.weight") first_ = item.tensor;
      if (item.name == attention.name + ".APT.mm.1.weight") second_ = item.tensor;
      if (item.name == attention.name + ".APT.scale") scale_ = item.tensor;
    }
  }

  at::Tensor apply(const at::Tensor& output, const at::Tensor& input, const nn::Layout& layout, const nn::Context&) override {
    const at::Tensor dynamic = mope_->routing().at(block_).dynamic;
    const at::Tensor mapped = mope_->mapper().tokens(mope_->mapper().hidden(y_)).front() / std::sqrt(5.0);  // the mapper's width
    const std::vector<std::int64_t> offsets = layout.offsets();
    std::vector<at::Tensor> examples;
    for (std::int64_t b = 0; b < layout.batch(); ++b) {
      const std::int64_t first = offsets[static_cast<std::size_t>(b)], rows = layout.length(b);
      const at::Tensor x = input.narrow(0, first, rows), a = output.narrow(0, first, rows);
      const at::Tensor prompts = at::cat({fixed_, dynamic[b], mapped[b].unsqueeze(0)});
      const at::Tensor keys = prompts + at::matmul(at::matmul(prompts, first_.t()), second_.t());
      const at::Tensor fired = at::matmul(x, keys.t()).relu();
      examples.push_back((a + fired.amax({1}, true).detach() * at::matmul(fired, prompts)) * scale_.exp());
    }
    return at::cat(examples);
  }

 private:
  const Mope* mope_;
  std::size_t block_;
  at::Tensor y_, fixed_, first_, second_, scale_;
};

/// The feature, and the gradients of what learns from it; `composed`: with the hooks of the test in the place of the expert's own.
std::pair<at::Tensor, std::vector<nn::NamedTensor>> run(const std::string& family, bool composed) {
  const auto backbone = make_backbone(family);
  const auto mope = make_mope(diffused(), *backbone);
  for (const nn::NamedTensor& item : mope->tensors())
    if (item.name.ends_with(".APT.scale")) item.tensor.detach().fill_(0.2);
  const nn::Context context = conditioned(3);
  std::vector<std::unique_ptr<Composition>> hooks;
  if (composed) {
    const auto attentions = attention_of_layers(*backbone);
    for (const nn::SequenceSite* site : backbone->sites().sequences) {
      nn::SublayerSite& attention = *attentions.at(site->layer);
      hooks.push_back(std::make_unique<Composition>(*mope, hooks.size(), *site, attention, context.complementary));
      EXPECT_EQ(attention.hooks.size(), 1U);
      attention.hooks.front() = hooks.back().get();
    }
  }
  const at::Tensor out = feature(*backbone, make_inputs(family, 3), context);
  (out * random(out.sizes(), 11)).sum().backward();
  std::vector<nn::NamedTensor> gradients;
  for (const nn::NamedTensor& item : mope->tensors())
    if (item.tensor.requires_grad() && item.name != "absent") gradients.push_back({item.name, item.tensor.grad()});
  return {out.detach(), gradients};
}

class DiffusedMope : public testing::TestWithParam<std::string> {};

TEST_P(DiffusedMope, EqualsItsPlainOperators) {
  const auto [ours, our_gradients] = run(GetParam(), false);
  const auto [plain, plain_gradients] = run(GetParam(), true);
  EXPECT_TRUE(at::allclose(ours, plain, 1e-5, 1e-5));
  ASSERT_EQ(our_gradients.size(), plain_gradients.size());
  for (std::size_t i = 0; i < our_gradients.size(); ++i) {
    const auto& [name, got] = our_gradients[i];
    const at::Tensor& wanted = plain_gradients[i].tensor;
    ASSERT_TRUE(got.defined() && wanted.defined()) << name;
    EXPECT_LE((got - wanted).abs().max().item<double>(), 1e-4 * wanted.abs().max().item<double>() + 1e-6) << name;
  }
}

TEST_P(DiffusedMope, ConditionsEveryExampleAloneAndComesOff) {
  const auto backbone = make_backbone(GetParam());
  const auto inputs = make_inputs(GetParam(), 3);
  nn::Context context = conditioned(3);
  const at::NoGradGuard no_grad;
  const at::Tensor before = feature(*backbone, inputs, context);
  {
    const auto mope = make_mope(diffused(), *backbone);
    const at::Tensor with = feature(*backbone, inputs, context);
    EXPECT_GT((with - before).abs().max().item<float>(), 1e-4);
    context.complementary = context.complementary.clone();
    context.complementary[1] += 1;
    const at::Tensor moved = (feature(*backbone, inputs, context) - with).abs().amax({1});
    EXPECT_GT(moved[1].item<float>(), 1e-6);
    EXPECT_EQ(moved[0].item<float>(), 0.0F);
    EXPECT_EQ(moved[2].item<float>(), 0.0F);
    mope->set_enabled(false);
    EXPECT_TRUE(at::equal(feature(*backbone, inputs, context), before));
  }
  EXPECT_TRUE(at::equal(feature(*backbone, inputs, context), before));
}

TEST_P(DiffusedMope, TheSequenceDoesNotGrow) {
  const auto backbone = make_backbone(GetParam());
  const auto inputs = make_inputs(GetParam(), 2);
  const at::NoGradGuard no_grad;
  const std::int64_t rows = backbone->forward(inputs, conditioned(2)).last_hidden_state.size(0);
  const auto mope = make_mope(diffused(), *backbone);
  EXPECT_EQ(backbone->forward(inputs, conditioned(2)).last_hidden_state.size(0), rows);
}

TEST_P(DiffusedMope, ReloadsBitEqual) {
  const auto folder = std::filesystem::temp_directory_path() / ("mmtune-mope-apt-" + std::to_string(getpid()) + GetParam());
  const auto inputs = make_inputs(GetParam(), 2);
  const nn::Context context = conditioned(2);
  const at::NoGradGuard no_grad;
  at::Tensor before;
  {
    const auto backbone = make_backbone(GetParam());
    const auto mope = make_mope(diffused(), *backbone);
    for (const nn::NamedTensor& item : mope->tensors())
      if (item.name.ends_with(".APT.scale")) item.tensor.fill_(-0.3);
    before = feature(*backbone, inputs, context);
    save_expert(*mope, folder, {{"backbone", "tiny"}, {"backbone_fingerprint", "one"}});
  }
  const auto backbone = make_backbone(GetParam());
  const auto loaded = load_expert(folder, *backbone, "one");
  EXPECT_TRUE(at::equal(feature(*backbone, inputs, context), before));
  std::filesystem::remove_all(folder);
}

TEST_P(DiffusedMope, CountsWhatItComputes) {
  const auto backbone = make_backbone(GetParam());
  const auto mope = make_mope(diffused(), *backbone);
  constexpr std::int64_t tokens = 9, width = 16, prompts = 5, rank = 2, layers = 3;
  std::int64_t expected = layers * 2 * prompts * width * (tokens + rank);
  // Besides, a product an element: the mapper and its projections, the routers' maps and keys, the mixture.
  for (const nn::NamedTensor& item : mope->tensors())
    for (const char* ending : {"dense.weight", "projection.weight", "complementary.weight", "main.weight", "keys", "experts"})
      if (item.name.ends_with(ending)) expected += item.tensor.numel();
  EXPECT_EQ(mope->extra_macs(tokens), expected);
}

INSTANTIATE_TEST_SUITE_P(Backbones, DiffusedMope, testing::Values("bert", "roberta", "vit", "wav2vec2", "wav2vec2_stable"),
                         [](const auto& info) { return info.param; });

TEST(DiffusedMope, TheLastBlockComputesTheClassRowAlone) {
  for (const std::string family : {"bert", "roberta", "vit"}) {
    const auto backbone = make_backbone(family);
    const auto mope = make_mope(diffused(), *backbone);
    const auto inputs = make_inputs(family, 3);
    nn::Context context = conditioned(3);
    const at::NoGradGuard no_grad;
    const backbones::ModelOutputs all = backbone->forward(inputs, context);
    context.read = nn::ReadRows::first;
    const backbones::ModelOutputs first = backbone->forward(inputs, context);
    EXPECT_EQ(first.last_hidden_state.size(0), 3);
    EXPECT_TRUE(at::allclose(first.last_hidden_state, nn::first_rows(all.last_hidden_state, all.layout), 1e-5, 1e-5)) << family;
  }
}

TEST(DiffusedMope, MorePromptsThanPositionsAreNoMatter) {
  const auto backbone = make_backbone("bert");
  MopeOptions options = diffused();
  options.prompt_length = 10;
  EXPECT_EQ(make_mope(options, *backbone)->prompts(), 21);
}

TEST(DiffusedMope, RefusesWhatCannotWork) {
  const auto swin = make_backbone("swin"), bert = make_backbone("bert");
  try {
    make_mope(diffused(), *swin);
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("prompt_form"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("swin"), std::string::npos);
  }
  MopeOptions options = diffused();
  options.deep = false;
  EXPECT_THROW(make_mope(options, *bert), UsageError);
}

}  // namespace
}  // namespace mmtune::experts
