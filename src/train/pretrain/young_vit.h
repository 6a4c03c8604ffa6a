#pragma once
// A vision transformer that is trained whole. Its tensors are a backbone's own; the forward pass is written for training at once all
// weights of a small model, with matrix products in bfloat16 where the CPU has them.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "backbones/backbone.h"
#include "nn/parameters.h"
#include "train/pretrain/recipe.h"

namespace mmtune::train {

/// What the configs of transformers' ViT and ViLT call alike, as a recipe describes it.
Json encoder_config(const PretrainModelSection& section);
/// The config.json of transformers' ViTModel that a recipe describes.
Json vit_config(const PretrainModelSection& section);

class YoungVit {
 public:
  /// Freshly initialised (positions as waves, attention mimetically), or with the tensors of section.start; every tensor but the pooler's
  /// is a trainable leaf. Throws Error where section.start holds another tensor, lacks one, or one has another shape.
  YoungVit(const PretrainModelSection& section, std::uint64_t seed);

  /// The trainable leaves under the checkpoint's names.
  std::vector<nn::NamedTensor> tensors() const;
  /// [B, 3, S, S] float32 → last_hidden_state [B, 1 + patches, width] float32: what the backbone computes, within rounding. `half`: matrix
  /// products on bfloat16 copies of their operands; sums, norms and the residual stream stay float32. `kept` [B, m] int64, where defined:
  /// the patches that each picture is shown by, instead of all; the result is then [B, 1 + m, width].
  at::Tensor operator()(const at::Tensor& pixels, bool half, const at::Tensor& kept = {}) const;
  std::int64_t patches() const { return (section_.image_size / section_.patch_size) * (section_.image_size / section_.patch_size); }
  backbones::Backbone& backbone() const { return *backbone_; }
  const PretrainModelSection& section() const { return section_; }

 private:
  void begin_anew(std::uint64_t seed);
  void go_on_from(const std::string& folder);

  PretrainModelSection section_;
  std::unique_ptr<backbones::Backbone> backbone_;
};

}  // namespace mmtune::train
