#pragma once
// The encoder that CLIP's two towers share: pre-norm blocks, causal in the text tower. Names as in transformers' CLIPEncoder.

#include <memory>
#include <vector>

#include "backbones/backbone.h"
#include "backbones/config.h"
#include "backbones/pre_norm_block.h"

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

class ClipEncoder {
 public:
  /// `weights` is the scope "encoder".
  ClipEncoder(const ClipShape& shape, const nn::Weights& weights);

  /// `only` [B] as for the last block, in the text tower the last row that it needs; the others compute all rows.
  void operator()(nn::Tokens& tokens, const at::Tensor& only, const nn::Context& context) const;
  /// The first `count` blocks, all rows.
  void first(std::int64_t count, nn::Tokens& tokens, const nn::Context& context) const;
  void list(nn::SiteTable& table);
  /// Of one sequence; `one_row`: the last block computes one row.
  std::int64_t macs(std::int64_t tokens, bool one_row) const;

 private:
  ClipShape shape_;
  std::vector<std::unique_ptr<PreNormBlock>> blocks_;
};

}  // namespace mmtune::backbones
