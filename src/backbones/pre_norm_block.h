#pragma once
// The transformer block that norms a sublayer's input and not its output: x + Attention(Norm(x)), then x + FeedForward(Norm(x)). ViT's,
// CLIP's and Swin's, which differ in names and in how rows attend to each other.

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "backbones/stepwise.h"
#include "nn/self_attention.h"

namespace mmtune::backbones {

/// What a checkpoint calls the parts, below the block's scope. The sites of the two sublayers carry the names that experts know them by.
struct PreNormNames {
  std::string_view norm_before, attention, attention_output, attention_site, norm_after, up, down, feed_forward_site;
  nn::AttentionNames maps = {};
};
/// ViT's, and Swin's but for the attention's scope.
inline constexpr PreNormNames vit_names{.norm_before = "layernorm_before",
                                        .attention = "attention.attention",
                                        .attention_output = "attention.output.dense",
                                        .attention_site = "attention.output",
                                        .norm_after = "layernorm_after",
                                        .up = "intermediate.dense",
                                        .down = "output.dense",
                                        .feed_forward_site = "output"};

struct PreNormShape {
  std::int64_t width, heads, inner;
  double epsilon;
  nn::Activation activation;
  bool qkv_bias = true;
  std::int64_t prompt_position = 1;  ///< where prompts belong in a sequence
  bool causal = false;
};

class PreNormBlock {
 public:
  /// `layer` counts from 0; `last`: no block stands behind this one.
  PreNormBlock(const PreNormShape& shape, const PreNormNames& names, const nn::Weights& weights, std::int64_t layer, bool last);

  /// `only` [B]: the position, prompts not counted, of the one row of every sequence whose output is wanted; the tokens are these rows
  /// afterwards. Undefined: all rows. In a causal block it is the last row.
  void operator()(nn::Tokens& tokens, const at::Tensor& only, const nn::Context& context) const;

  /// As Stepwise has them.
  void step(nn::Tokens& tokens, StepRows wanted, const nn::Context& context) const;
  nn::KeyValueRows keys_values(const at::Tensor& rows, const nn::Context& context) const;

  /// Normed rows [N, D] → what the attention makes of them before its output map, [N, D]. The tokens tell layout and prompts.
  using Attend = std::function<at::Tensor(const nn::SelfAttention& attention, const at::Tensor& normed, const nn::Tokens& tokens)>;
  /// The same for all rows, with an attention of the caller's.
  void operator()(nn::Tokens& tokens, const nn::Context& context, const Attend& attend) const;

  void list(nn::SiteTable& table);

 private:
  /// What follows the attention; `x` and `normed` are the rows that it was asked for.
  void finish(nn::Tokens& tokens, const at::Tensor& x, const at::Tensor& normed, const at::Tensor& attended,
              const nn::Context& context) const;

  nn::Activation activation_;
  nn::LayerNorm norm_before_;
  nn::SelfAttention self_attention_;
  nn::Linear attention_output_;
  nn::LayerNorm norm_after_;
  nn::Linear up_, down_;
  nn::SublayerSite attention_site_, feed_forward_site_;
  nn::SequenceSite sequence_;
};

/// All blocks of an encoder, one behind the other; `only` is the last one's.
void run_blocks(const std::vector<std::unique_ptr<PreNormBlock>>& blocks, nn::Tokens& tokens, const at::Tensor& only,
                const nn::Context& context);

}  // namespace mmtune::backbones
