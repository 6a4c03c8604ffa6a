// Wav2Vec2's front: the way of frozen convolutions against that of gradients, packed against padded sounds, and what is kept.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbones/backbone.h"

namespace mmtune::backbones {
namespace {

Json config(const char* norm, bool stable) {
  return {{"model_type", "wav2vec2"},
          {"hidden_size", 16},
          {"num_attention_heads", 4},
          {"intermediate_size", 24},
          {"num_hidden_layers", 2},
          {"conv_dim", {8, 12}},
          {"conv_kernel", {10, 3}},
          {"conv_stride", {5, 2}},
          {"conv_bias", true},
          {"num_conv_pos_embeddings", 8},
          {"num_conv_pos_embedding_groups", 2},
          {"feat_extract_norm", norm},
          {"do_stable_layer_norm", stable}};
}

ModelInputs whole(const at::Tensor& samples) {
  ModelInputs inputs;
  inputs.audio_layout = nn::Layout::uniform(samples.size(0), samples.size(1));
  inputs.input_values = samples.reshape({-1});
  return inputs;
}

at::Tensor noise(std::int64_t batch, std::int64_t samples) {
  return at::sin(at::arange(batch * samples).to(at::kFloat).square().mul(0.37)).view({batch, samples});
}

TEST(Wav2Vec2, FrozenConvolutionsEqualThoseThatLearn) {
  for (const auto& [norm, stable] : {std::pair{"group", false}, {"layer", true}, {"group", true}}) {
    const auto model = fresh_backbone(config(norm, stable), 3);
    const at::Tensor samples = noise(2, 700);
    const ModelOutputs frozen = model->forward(whole(samples), {});
    EXPECT_FALSE(frozen.last_hidden_state.requires_grad());
    const ModelOutputs learning = model->forward(whole(samples.clone().requires_grad_(true)), {});
    EXPECT_TRUE(learning.last_hidden_state.requires_grad());
    EXPECT_TRUE(at::allclose(frozen.last_hidden_state, learning.last_hidden_state, 1e-4, 1e-5)) << norm;
    EXPECT_EQ(frozen.layout.length(0), model->rows_of(700));
  }
}

TEST(Wav2Vec2, PackedSoundsAreThoseOfTheirOwn) {
  for (const auto& [norm, stable] : {std::pair{"group", false}, {"layer", true}}) {
    const auto model = fresh_backbone(config(norm, stable), 4);
    const at::NoGradGuard no_grad;
    const std::vector<std::int64_t> lengths{300, 700, 455};
    std::vector<at::Tensor> sounds, alone;
    for (const std::int64_t length : lengths) {
      sounds.push_back(noise(1, length).view({-1}));
      alone.push_back(model->forward(whole(sounds.back().unsqueeze(0)), {}).last_hidden_state);
    }
    ModelInputs inputs;
    inputs.audio_layout = nn::Layout::packed(lengths);
    inputs.input_values = at::cat(sounds);
    const ModelOutputs packed = model->forward(inputs, {});
    EXPECT_TRUE(at::allclose(packed.last_hidden_state, at::cat(alone), 1e-4, 1e-5)) << norm;
    EXPECT_EQ(pool(packed, Pooling::mean).size(0), 3);
  }
}

TEST(Wav2Vec2, MaskedSoundsOfLayerNormAreThoseOfTheirOwn) {
  const auto model = fresh_backbone(config("layer", true), 5);
  const at::NoGradGuard no_grad;
  const at::Tensor sound = noise(1, 450);
  const ModelOutputs alone = model->forward(whole(sound), {});
  at::Tensor padded = at::zeros({2, 800}), mask = at::zeros({2, 800}, at::kLong);
  padded[0].narrow(0, 0, 450).copy_(sound[0]);
  mask[0].narrow(0, 0, 450).fill_(1);
  padded[1].copy_(noise(1, 800)[0]);
  mask[1].fill_(1);
  const at::Tensor rows = model->forward_named({{"input_values", padded}, {"attention_mask", mask}}, {}).at("last_hidden_state");
  EXPECT_TRUE(at::allclose(rows[0].narrow(0, 0, alone.layout.length(0)), alone.last_hidden_state, 1e-4, 1e-5));
}

TEST(Wav2Vec2, OperationsAreCountedByWhereTheyLie) {
  const auto model = fresh_backbone(config("group", false), 6);
  // 700 samples: 139 frames of 8 channels, then 69 of 12.
  const std::int64_t front = 139 * 10 * 8 + 69 * 3 * 8 * 12, between = 69 * 12 * 16 + 69 * 8 * 16 * 8;
  EXPECT_EQ(model->macs(700, false), front + between + model->block_macs(700, false));
  EXPECT_EQ(model->block_macs(700, false), 2 * 69 * (4 * 16 * 16 + 2 * 16 * 24 + 2 * 69 * 16));
  EXPECT_EQ(model->rows_of(700), 69);
  EXPECT_EQ(model->info().least_length, 20);
}

}  // namespace
}  // namespace mmtune::backbones
