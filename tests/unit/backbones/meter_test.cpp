// METER's two streams under gradient checkpointing: the same numbers and gradients, and a layer that is really computed again.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include "backbones/backbone.h"

namespace mmtune::backbones {
namespace {

std::unique_ptr<Backbone> tiny_meter() {
  const Json shape = {{"hidden_size", 16}, {"num_attention_heads", 2}, {"intermediate_size", 24}};
  Json config = shape, text = shape, vision = shape;
  text.update(
      {{"model_type", "roberta"}, {"num_hidden_layers", 1}, {"vocab_size", 30}, {"max_position_embeddings", 12}, {"type_vocab_size", 1}});
  vision.update({{"model_type", "clip_vision_model"}, {"num_hidden_layers", 1}, {"image_size", 12}, {"patch_size", 4}});
  config.update({{"model_type", "meter"}, {"num_hidden_layers", 3}, {"text_config", text}, {"vision_config", vision}});
  return fresh_backbone(config, 4);
}

ModelInputs inputs() {
  ModelInputs made;
  made.text_layout = nn::Layout::packed({3, 5});
  made.input_ids = at::arange(2, 10, at::kLong);
  made.pixel_values = at::empty({2, 3, 12, 12}).normal_(0, 1, at::detail::createCPUGenerator(2));
  return made;
}

/// output · factor, counted.
class Counted final : public nn::SublayerHook {
 public:
  at::Tensor apply(const at::Tensor& output, const at::Tensor&, const nn::Layout&, const nn::Context&) override {
    ++runs;
    return output * factor;
  }
  int runs = 0;
  at::Tensor factor = at::full({16}, 1.1).requires_grad_(true);
};

struct Pass {
  at::Tensor pooled, gradient;
  int runs = 0;
};

Pass pass(bool recompute, nn::ReadRows read) {
  const auto meter = tiny_meter();
  Counted hook;
  for (nn::SublayerSite* site : meter->sites().sublayers)
    if (site->layer == 1 && site->role == nn::SublayerSite::Role::cross_attention) site->hooks.push_back(&hook);
  nn::Context context;
  context.recompute = recompute;
  context.read = read;
  const ModelOutputs outputs = meter->forward(inputs(), context);
  const at::Tensor pooled = outputs.pooler_output;
  (pooled * at::arange(pooled.numel(), at::kFloat).view(pooled.sizes()).sin()).sum().backward();
  return {pooled.detach(), hook.factor.grad(), hook.runs};
}

TEST(Meter, CheckpointingComputesALayerOfBothStreamsAgain) {
  for (const nn::ReadRows read : {nn::ReadRows::all, nn::ReadRows::first}) {
    const Pass plain = pass(false, read), again = pass(true, read);
    EXPECT_TRUE(at::equal(plain.pooled, again.pooled));
    EXPECT_TRUE(at::allclose(plain.gradient, again.gradient, 1e-5, 1e-7));
    EXPECT_GT(plain.gradient.abs().max().item<float>(), 0.0F);
    EXPECT_EQ(plain.runs, 2) << "a stream each";
    EXPECT_EQ(again.runs, 4);
  }
}

}  // namespace
}  // namespace mmtune::backbones
