#pragma once
// Tiny backbones of every family whose tokens can be had between the layers, and what goes into them.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <memory>
#include <string>
#include <vector>

#include "backbones/backbone.h"

namespace mmtune::backbones::tiny {

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
  return fresh_backbone(config, 21);
}

inline ModelInputs make_inputs(const std::string& family, std::int64_t batch) {
  ModelInputs inputs;
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

}  // namespace mmtune::backbones::tiny
