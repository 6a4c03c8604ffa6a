#pragma once
// The vision transformer of BLIP-2 and its descendants (EVA-CLIP ViT-g; Fang et al. 2023, arXiv 2211.07636): pre-norm blocks whose
// queries, keys and values come from one map, learned positions, no norm of its own at the end. Names as in transformers'
// Blip2VisionModel; a bias of queries and one of values stand for one of all three where a checkpoint has no key bias.

#include <memory>
#include <optional>
#include <vector>

#include "backbones/config.h"
#include "nn/layers.h"

namespace mmtune::backbones {

struct EvaShape {
  std::int64_t width = 0, heads = 0, inner = 0, layers = 0, image = 0, patch = 0;
  double epsilon = 1e-6;       ///< of the blocks' norms
  double last_epsilon = 1e-6;  ///< of the norm behind the encoder
  bool bias = true;
  nn::Activation activation = nn::Activation::gelu;
  std::int64_t patches() const { return (image / patch) * (image / patch); }
};
EvaShape read_eva_shape(const Config& config);

class EvaBlock {
 public:
  EvaBlock(const nn::Weights& weights, const EvaShape& shape, std::int64_t layer);
  at::Tensor operator()(const at::Tensor& x, const nn::Layout& layout, const nn::Context& context) const;
  void list(nn::SiteTable& table);

 private:
  std::int64_t heads_;
  nn::Activation activation_;
  nn::LayerNorm norm_before_;
  nn::Linear qkv_, projection_;
  nn::LayerNorm norm_after_;
  nn::Linear up_, down_;
};

class EvaVit {
 public:
  EvaVit(const nn::Weights& weights, const EvaShape& shape);
  const EvaShape& shape() const { return shape_; }

  struct Rows {
    at::Tensor last;      ///< [B·(1+P), D], the last block's output, class token first
    at::Tensor previous;  ///< the last but one's, where it was asked for
    at::Tensor normed;    ///< `last` behind the norm that follows the encoder
  };
  /// pixels [B, 3, S, S].
  Rows operator()(const at::Tensor& pixels, bool with_previous, const nn::Context& context) const;
  void list(nn::SiteTable& table);
  std::int64_t macs() const;  ///< of one picture

 private:
  EvaShape shape_;
  std::string path_;
  at::Tensor class_token_, positions_, patch_weight_, patch_bias_;
  std::vector<std::unique_ptr<EvaBlock>> blocks_;
  nn::LayerNorm norm_;
};

}  // namespace mmtune::backbones
