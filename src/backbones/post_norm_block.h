#pragma once
// The transformer block that norms a sublayer's output with its residual: Norm(x + Attention(x)), then Norm(x + FeedForward(x)). BERT's,
// and that of Wav2Vec2's smaller models, which differ in names.

#include <memory>
#include <string_view>
#include <vector>

#include "backbones/stepwise.h"
#include "nn/self_attention.h"

namespace mmtune::backbones {

/// What a checkpoint calls the parts, below the block's scope. The sites of the two sublayers carry the names that experts know them by.
struct PostNormNames {
  std::string_view attention, attention_output, attention_site, attention_norm, up, down, feed_forward_site, norm;
  nn::AttentionNames maps = {};
};

struct PostNormShape {
  std::int64_t width, heads, inner;
  double epsilon;
  nn::Activation activation;
  std::int64_t prompt_position = 1;  ///< where prompts belong in a sequence
};

class PostNormBlock {
 public:
  /// `layer` counts from 0; `last`: no block stands behind this one.
  PostNormBlock(const PostNormShape& shape, const PostNormNames& names, const nn::Weights& weights, std::int64_t layer, bool last);

  /// `first_only`: only row 0 of every sequence is wanted; the tokens are these rows afterwards.
  void operator()(nn::Tokens& tokens, bool first_only, const nn::Context& context) const;
  /// As Stepwise has them.
  void step(nn::Tokens& tokens, StepRows wanted, const nn::Context& context) const;
  nn::KeyValueRows keys_values(const at::Tensor& rows, const nn::Context& context) const;
  void list(nn::SiteTable& table);

 private:
  /// `x` [Nq, D]: the rows whose output is wanted; `all` [N, D]: the rows they attend to.
  at::Tensor attend(const at::Tensor& x, const at::Tensor& all, const nn::Layout& query_layout, const nn::Layout& key_layout,
                    const nn::Context& context) const;
  at::Tensor feed_forward(const at::Tensor& x, const nn::Layout& layout, const nn::Context& context) const;

  nn::Activation activation_;
  nn::SelfAttention self_attention_;
  nn::Linear attention_output_;
  nn::LayerNorm attention_norm_;
  nn::Linear up_, down_;
  nn::LayerNorm norm_;
  nn::SublayerSite attention_site_, feed_forward_site_;
  nn::SequenceSite sequence_;
};

/// Runs them one after the other, with gradient checkpointing where the context asks for it; `first_only` concerns the last one.
void run_blocks(const std::vector<std::unique_ptr<PostNormBlock>>& blocks, nn::Tokens& tokens, bool first_only, const nn::Context& context);

}  // namespace mmtune::backbones
