#pragma once
// Tiny backbones of every family that MoPE's prompts go into, and what goes into them.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <memory>
#include <string>
#include <vector>

#include "experts/mope.h"

namespace mmtune::experts::mope_tests {

using backbones::Backbone;

inline constexpr std::int64_t condition_width = 6;

inline at::Tensor random(at::IntArrayRef shape, std::uint64_t seed) {
  return at::empty(shape).normal_(0, 1, at::detail::createCPUGenerator(seed));
}

inline std::unique_ptr<Backbone> make_backbone(const std::string& family) {
  Json config = {
      {"model_type", family}, {"hidden_size", 16}, {"num_attention_heads", 2}, {"intermediate_size", 24}, {"num_hidden_layers", 3}};
  if (family == "bert" || family == "roberta") {
    config.update({{"vocab_size", 30}, {"max_position_embeddings", 20}, {"pad_token_id", 1}});
  } else if (family == "swin") {
    config = {{"model_type", "swin"}, {"image_size", 16},    {"patch_size", 2}, {"embed_dim", 8},
              {"depths", {2, 2}},     {"num_heads", {2, 4}}, {"window_size", 4}};
  } else if (family.starts_with("wav2vec2")) {
    config.update({{"model_type", "wav2vec2"},
                   {"conv_dim", {6, 8}},
                   {"conv_kernel", {10, 3}},
                   {"conv_stride", {5, 2}},
                   {"num_conv_pos_embeddings", 4},
                   {"num_conv_pos_embedding_groups", 2},
                   {"feat_extract_norm", "layer"},
                   {"conv_bias", true},
                   {"do_stable_layer_norm", family == "wav2vec2_stable"}});
  } else {
    config.update({{"image_size", 12}, {"patch_size", 4}});
  }
  return backbones::fresh_backbone(config, 21);
}

inline backbones::ModelInputs make_inputs(const std::string& family, std::int64_t batch) {
  backbones::ModelInputs inputs;
  if (family == "bert" || family == "roberta") {
    std::vector<std::int64_t> lengths;
    for (std::int64_t i = 0; i < batch; ++i) lengths.push_back(3 + i);
    inputs.text_layout = nn::Layout::packed(lengths);
    inputs.input_ids = at::arange(inputs.text_layout.rows(), at::kLong).remainder(30);
  } else if (family.starts_with("wav2vec2")) {
    std::vector<std::int64_t> samples;
    for (std::int64_t i = 0; i < batch; ++i) samples.push_back(60 + 25 * i);
    inputs.audio_layout = nn::Layout::packed(samples);
    inputs.input_values = random({inputs.audio_layout.rows()}, 2);
  } else {
    const std::int64_t side = family == "swin" ? 16 : 12;
    inputs.pixel_values = random({batch, 3, side, side}, 2);
  }
  return inputs;
}

inline MopeOptions small(std::int64_t experts = 3) {
  MopeOptions options;
  options.experts = experts;
  options.prompt_length = 2;
  options.mapper_width = 5;
  options.complementary_widths = {condition_width};
  return options;
}

inline std::unique_ptr<Mope> make_mope(const MopeOptions& options, Backbone& backbone) {
  at::Generator generator = at::detail::createCPUGenerator(9);
  return std::make_unique<Mope>(options, backbone, generator);
}

inline nn::Context conditioned(std::int64_t batch) {
  nn::Context context;
  context.complementary = random({batch, condition_width}, 3);
  return context;
}

inline at::Tensor feature(Backbone& backbone, const backbones::ModelInputs& inputs, const nn::Context& context) {
  const backbones::ModelOutputs outputs = backbone.forward(inputs, context);
  return nn::mean_rows(outputs.last_hidden_state, outputs.layout);
}

}  // namespace mmtune::experts::mope_tests
