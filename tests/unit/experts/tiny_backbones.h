#pragma once
// Backbones small enough for finite differences, by family.

#include <memory>
#include <string>

#include "backbones/backbone.h"
#include "core/json.h"

namespace mmtune::experts {

inline bool reads_text(const std::string& family) {
  return family == "bert" || family == "clip_text_model";
}

inline std::unique_ptr<backbones::Backbone> make_backbone(const std::string& family) {
  Json config = {
      {"model_type", family}, {"hidden_size", 16}, {"num_attention_heads", 2}, {"intermediate_size", 24}, {"num_hidden_layers", 2}};
  if (reads_text(family)) {
    config.update({{"vocab_size", 30}, {"max_position_embeddings", 40}, {"eos_token_id", 8}});
  } else if (family == "swin") {
    // Windows of 4 on maps of 6 and 3: padded, shifted and clamped ones.
    config = {{"model_type", "swin"}, {"image_size", 12},    {"patch_size", 2}, {"embed_dim", 8},
              {"depths", {2, 1}},     {"num_heads", {2, 4}}, {"window_size", 4}};
  } else {
    config.update({{"image_size", 12}, {"patch_size", 4}});
  }
  return backbones::fresh_backbone(config, 21);
}

}  // namespace mmtune::experts
