#pragma once
// CLIP's image and text towers, each a backbone of its own, and parts of the model that holds both. Names as in transformers' CLIPModel,
// CLIPVisionModel(WithProjection) and CLIPTextModel(WithProjection).

#include <memory>
#include <optional>

#include "backbones/clip_encoder.h"

namespace mmtune::backbones {

/// What the two towers have in common: a scope of the checkpoint, and the projection into the shared space where the checkpoint has one.
class ClipTower : public Backbone {
 public:
  /// Refuses missing tensors of everything read so far; to be called once, when the whole model is built.
  void finish(const nn::Weights& root) { report_ = root.finish(); }
  std::int64_t rows_at(std::string_view name, std::int64_t layer, std::int64_t tokens) const override;

 protected:
  /// `projection`: the name of the map into the shared space of `projected` dimensions.
  ClipTower(const ClipShape& shape, const nn::Weights& root, std::string_view projection, std::int64_t projected);
  void list_projection();
  at::Tensor project(const at::Tensor& pooled, const nn::Context& context) const;
  std::int64_t projected_width() const { return projection_ ? projection_->site().out : 0; }
  std::int64_t projection_macs() const { return projection_ ? projection_->site().in * projection_->site().out : 0; }

  ClipShape shape_;

 private:
  std::unique_ptr<nn::Linear> projection_;
};

class ClipImageTower final : public ClipTower {
 public:
  /// `tower`: the scope of the tower itself ("vision_model"); `root`: that of the projection beside it. `layers`: how many blocks are
  /// computed, where something reads the output of an earlier one than the last (forward() then has no pooled output); 0: all.
  ClipImageTower(const Config& config, const nn::Weights& root, const nn::Weights& tower, std::int64_t projected, std::int64_t layers = 0);
  ModelOutputs forward(const ModelInputs& inputs, const nn::Context& context) override;
  /// pixel_values → last_hidden_state, pooler_output, and image_embeds (not normalised) where there is a projection.
  TensorMap forward_named(const TensorMap& inputs, const nn::Context& context) override;
  std::int64_t macs(std::int64_t tokens, bool read_first) const override;
  /// The tower's last norm, which it applies to the class token alone, of any of its rows.
  at::Tensor normed(const at::Tensor& rows) const { return norm_after_(rows); }

 private:
  std::int64_t patches() const { return (info_.image_height / patch_height_) * (info_.image_width / patch_width_); }

  std::int64_t patch_height_, patch_width_;
  nn::InputSite input_{.name = "pixel_values"};
  at::Tensor class_token_, positions_, projection_weight_;
  nn::LayerNorm norm_before_;
  ClipEncoder encoder_;
  nn::LayerNorm norm_after_;
  std::int64_t read_layers_;
};

class ClipTextTower final : public ClipTower {
 public:
  /// As for the image tower, with the scope "text_model".
  ClipTextTower(const Config& config, const nn::Weights& root, const nn::Weights& tower, std::int64_t projected);
  ModelOutputs forward(const ModelInputs& inputs, const nn::Context& context) override;
  /// input_ids or inputs_embeds, attention_mask, position_ids → last_hidden_state, and where there are ids pooler_output and text_embeds
  /// (not normalised). The pooled row is that of the end-of-text token.
  TensorMap forward_named(const TensorMap& inputs, const nn::Context& context) override;
  std::int64_t macs(std::int64_t tokens, bool read_first) const override;

 private:
  at::Tensor end_positions(const ModelInputs& inputs) const;

  std::int64_t vocabulary_, end_token_;
  at::Tensor words_, positions_;
  ClipEncoder encoder_;
  nn::LayerNorm norm_;
};

}  // namespace mmtune::backbones
