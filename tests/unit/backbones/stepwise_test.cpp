// Backbones block by block: the same as in one pass, whichever rows are wanted.

#include "backbones/stepwise.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "unit/backbones/tiny_backbones.h"

namespace mmtune::backbones {
namespace {

class Steps : public testing::TestWithParam<std::string> {};

TEST_P(Steps, MakeAWholePass) {
  const auto backbone = tiny::make_backbone(GetParam());
  const Stepwise& blocks = stepwise(*backbone, "here");
  const at::NoGradGuard no_grad;
  const ModelOutputs whole = backbone->forward(tiny::make_inputs(GetParam(), 2), {});
  nn::Tokens tokens = blocks.enter(tiny::make_inputs(GetParam(), 2), {});
  for (std::int64_t block = 0; block < backbone->info().layers; ++block) blocks.step(block, tokens, StepRows::all, {});
  EXPECT_TRUE(at::equal(blocks.leave(tokens, {}).last_hidden_state, whole.last_hidden_state));
}

TEST_P(Steps, GiveTheRowsThatAreWanted) {
  const auto backbone = tiny::make_backbone(GetParam());
  const Stepwise& blocks = stepwise(*backbone, "here");
  const at::NoGradGuard no_grad;
  nn::Tokens tokens = blocks.enter(tiny::make_inputs(GetParam(), 2), {});
  tokens.insert_prompts(tiny::random({2, 4, 16}, 3), backbone->sites().sequences.front()->prompt_position);
  nn::Tokens all = tokens, prompts = tokens, rest = tokens;
  blocks.step(1, all, StepRows::all, {});
  blocks.step(1, prompts, StepRows::prompts, {});
  blocks.step(1, rest, StepRows::without_prompts, {});
  EXPECT_EQ(prompts.layout.length(0), 4);
  EXPECT_EQ(rest.prompt_count, 0);
  EXPECT_TRUE(at::allclose(prompts.rows.view({2, 4, 16}), all.prompts(), 1e-4, 1e-5));
  all.remove_prompts();
  EXPECT_TRUE(at::allclose(rest.rows, all.rows, 1e-4, 1e-5));
}

INSTANTIATE_TEST_SUITE_P(Backbones, Steps, testing::Values("bert", "vit", "wav2vec2", "wav2vec2_stable"),
                         [](const auto& info) { return info.param; });

TEST(Stepwise, RefusesBackbonesThatKeepTheirBlocks) {
  const auto swin = tiny::make_backbone("swin");
  try {
    stepwise(*swin, "expert.method = \"pmf\"");
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("swin"), std::string::npos);
  }
}

}  // namespace
}  // namespace mmtune::backbones
