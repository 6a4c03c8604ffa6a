// Backbones block by block: the same as in one pass, whichever rows are wanted.

#include "backbones/stepwise.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace mmtune::backbones {
namespace {

Json config_of(const std::string& family) {
  Json config = {
      {"model_type", family}, {"hidden_size", 16}, {"num_attention_heads", 2}, {"intermediate_size", 24}, {"num_hidden_layers", 3}};
  if (family == "bert") {
    config.update({{"vocab_size", 30}, {"max_position_embeddings", 20}});
  } else if (family == "vit") {
    config.update({{"image_size", 12}, {"patch_size", 4}});
  } else {
    config.update({{"model_type", "wav2vec2"},
                   {"conv_dim", {6, 8}},
                   {"conv_kernel", {10, 3}},
                   {"conv_stride", {5, 2}},
                   {"num_conv_pos_embeddings", 4},
                   {"num_conv_pos_embedding_groups", 2},
                   {"feat_extract_norm", "layer"},
                   {"conv_bias", true},
                   {"do_stable_layer_norm", family == "stable"}});
  }
  return config;
}

ModelInputs inputs_of(const std::string& family) {
  at::Generator generator = at::detail::createCPUGenerator(2);
  ModelInputs inputs;
  if (family == "bert") {
    inputs.text_layout = nn::Layout::packed({3, 5});
    inputs.input_ids = at::arange(8, at::kLong);
  } else if (family == "vit") {
    inputs.pixel_values = at::empty({2, 3, 12, 12}).normal_(0, 1, generator);
  } else {
    inputs.audio_layout = nn::Layout::packed({60, 85});
    inputs.input_values = at::empty({145}).normal_(0, 1, generator);
  }
  return inputs;
}

class Steps : public testing::TestWithParam<std::string> {};

TEST_P(Steps, MakeAWholePass) {
  const auto backbone = fresh_backbone(config_of(GetParam()), 5);
  const Stepwise& blocks = stepwise(*backbone, "here");
  const at::NoGradGuard no_grad;
  const ModelOutputs whole = backbone->forward(inputs_of(GetParam()), {});
  nn::Tokens tokens = blocks.enter(inputs_of(GetParam()), {});
  for (std::int64_t block = 0; block < backbone->info().layers; ++block) blocks.step(block, tokens, StepRows::all, {});
  EXPECT_TRUE(at::equal(blocks.leave(tokens, {}).last_hidden_state, whole.last_hidden_state));
}

TEST_P(Steps, GiveTheRowsThatAreWanted) {
  const auto backbone = fresh_backbone(config_of(GetParam()), 5);
  const Stepwise& blocks = stepwise(*backbone, "here");
  const at::NoGradGuard no_grad;
  nn::Tokens tokens = blocks.enter(inputs_of(GetParam()), {});
  at::Generator generator = at::detail::createCPUGenerator(3);
  tokens.insert_prompts(at::empty({2, 4, 16}).normal_(0, 1, generator), backbone->sites().sequences.front()->prompt_position);
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

INSTANTIATE_TEST_SUITE_P(Backbones, Steps, testing::Values("bert", "vit", "wav2vec2", "stable"),
                         [](const auto& info) { return info.param; });

TEST(Stepwise, RefusesBackbonesThatKeepTheirBlocks) {
  const auto swin = fresh_backbone({{"model_type", "swin"},
                                    {"image_size", 16},
                                    {"patch_size", 2},
                                    {"embed_dim", 8},
                                    {"depths", {2, 2}},
                                    {"num_heads", {2, 4}},
                                    {"window_size", 4}},
                                   1);
  try {
    stepwise(*swin, "expert.method = \"pmf\"");
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("swin"), std::string::npos);
  }
}

}  // namespace
}  // namespace mmtune::backbones
