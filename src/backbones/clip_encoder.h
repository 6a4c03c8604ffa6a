#pragma once
// The encoder that CLIP's two towers share: pre-norm blocks, causal in the text tower. Names as in transformers' CLIPEncoder.

#include <memory>
#include <vector>

#include "backbones/backbone.h"
#include "backbones/config.h"
#include "nn/self_attention.h"

namespace mmtune::backbones {

struct ClipShape {
  std::int64_t width, heads, inner, layers;
  double epsilon;
  nn::Activation activation;
  bool causal;
};

/// The fields that both towers have; absent ones have the defaults of transformers' class, which saves may leave out. Throws Error when
/// they contradict each other.
ClipShape read_clip_shape(const Config& config, bool text);

class ClipBlock {
 public:
  ClipBlock(const ClipShape& shape, const nn::Weights& weights, std::int64_t layer);

  /// `only` [B]: the position of the one row of every sequence whose output is wanted (undefined: all rows); in a causal encoder its last.
  /// The tokens are these rows afterwards.
  void operator()(nn::Tokens& tokens, const at::Tensor& only, const nn::Context& context) const;
  void list(nn::SiteTable& table);

 private:
  ClipShape shape_;
  nn::LayerNorm norm_before_;
  nn::SelfAttention self_attention_;
  nn::Linear attention_output_;
  nn::LayerNorm norm_after_;
  nn::Linear intermediate_, output_;
  nn::SublayerSite attention_site_, feed_forward_site_;
  nn::SequenceSite sequence_;
};

class ClipEncoder {
 public:
  /// `weights` is the scope "encoder".
  ClipEncoder(const ClipShape& shape, const nn::Weights& weights);

  /// `only` as for the last block; the others compute all rows.
  void operator()(nn::Tokens& tokens, const at::Tensor& only, const nn::Context& context) const;
  void list(nn::SiteTable& table);
  /// Of one sequence; `one_row`: the last block computes one row.
  std::int64_t macs(std::int64_t tokens, bool one_row) const;

 private:
  ClipShape shape_;
  std::vector<std::unique_ptr<ClipBlock>> blocks_;
};

}  // namespace mmtune::backbones
