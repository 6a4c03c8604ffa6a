#pragma once
// The layers of OFA (Wang et al. 2022, arXiv 2202.03052): pre-norm with further norms behind the attention and inside the feed-forward part
// (NormFormer), learned factors on the heads' outputs, position biases in the place of added positions. Names as in the fairseq
// checkpoints.

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "nn/self_attention.h"

namespace mmtune::backbones {

/// Index [positions, positions] into a table of 2·buckets − 1 rows, by the distance query − key: exact up to buckets / 2, then in steps
/// that grow with its logarithm.
at::Tensor ofa_token_buckets(std::int64_t buckets, std::int64_t positions);
/// Index [side² + 1, side² + 1] into a table of (2·side − 1)² + 3 rows, by rows and columns between two patches; place 0 is not a patch.
at::Tensor ofa_image_buckets(std::int64_t side);

/// What two kinds of checkpoints call the same: fairseq's, and those of OFA's port to transformers (model_type "ofa").
struct OfaNames {
  std::string_view encoder_attention_norm = "attn_ln", decoder_attention_norm = "self_attn_ln", inner_norm = "ffn_layernorm",
                   cross = "encoder_attn", cross_norm_before = "encoder_attn_layer_norm", cross_norm = "cross_attn_ln";
};
inline constexpr OfaNames fairseq_names{};
inline constexpr OfaNames transformers_names{.encoder_attention_norm = "self_attn_mid_layer_norm",
                                             .decoder_attention_norm = "self_attn_mid_layer_norm",
                                             .inner_norm = "ffn_layer_norm",
                                             .cross = "cross_attn",
                                             .cross_norm_before = "cross_attn_layer_norm",
                                             .cross_norm = "cross_attn_mid_layer_norm"};

struct OfaLayerShape {
  std::int64_t width = 0, heads = 0, inner = 0;
  OfaNames names;
};

/// What a decoder's layer keeps of the words it has read, [n, T, D]; undefined: none yet.
struct OfaPast {
  at::Tensor keys, values;
};

/// What a cross-attention keeps of what the encoder made of B sources, [B, H, S, d].
struct OfaSourceKeys {
  at::Tensor keys, values;
};

/// Which lines read which source, so that the lines of one ask together: `slot` [n] is a line's place among B · most.
struct OfaAsking {
  at::Tensor slot;
  std::int64_t most = 0;
  at::Tensor bias;  ///< [B, H, most · T, S], −inf where a source has nothing
};

/// q is scaled by (2 · head width)^-½, and every head's output by a learned factor.
class OfaAttention {
 public:
  /// `cross`: keys and values come from rows of another width-equal sequence, and no prefix joins them.
  OfaAttention(const nn::Weights& weights, const OfaLayerShape& shape, std::int64_t layer, bool cross);
  /// `bias` [H, Tq, Tk]; undefined: none.
  at::Tensor operator()(const at::Tensor& queries, const at::Tensor& rows, const nn::Layout& query_layout, const nn::Layout& key_layout,
                        const at::Tensor& bias, bool causal, const nn::Context& context) const;
  /// Of words [n·T, D] behind `past`, which they join where `keep`. `bias` [H, T, P + T], what is hidden included unless `causal`.
  at::Tensor behind(const at::Tensor& rows, std::int64_t lines, OfaPast& past, bool keep, const at::Tensor& bias, bool causal,
                    const nn::Context& context) const;
  /// The cross-attention's keys and values of rows [B·S, D], and its answer to lines of words [n·T, D] that ask for them.
  OfaSourceKeys source_keys(const at::Tensor& rows, std::int64_t batch, const nn::Context& context) const;
  at::Tensor ask(const at::Tensor& rows, const OfaSourceKeys& source, const OfaAsking& asking, const nn::Context& context) const;
  void list(nn::SiteTable& table);

 private:
  std::vector<at::Tensor> source_maps(const at::Tensor& rows, const nn::Context& context) const;
  at::Tensor finish(const at::Tensor& heads, const nn::Context& context) const;

  std::string name_;
  std::int64_t heads_;
  std::unique_ptr<nn::SelfAttention> self_;
  std::unique_ptr<nn::Linear> query_, key_, value_;
  nn::Linear output_;
  at::Tensor head_scale_;  ///< [H]
};

/// One layer of the encoder, or with cross-attention of the decoder.
class OfaLayer {
 public:
  OfaLayer(const nn::Weights& weights, const OfaLayerShape& shape, std::int64_t layer, bool decoder);

  /// What a decoder's layer reads beside its own rows.
  struct Source {
    const at::Tensor* rows;
    const nn::Layout* layout;
    const at::Tensor* bias;  ///< [H, Tq, S]
  };
  /// x [N, D] → [N, D].
  at::Tensor operator()(const at::Tensor& x, const nn::Layout& layout, const at::Tensor& bias, const std::optional<Source>& source,
                        const nn::Context& context) const;

  /// The same of words [n·T, D] behind those that were read before, a decoder's layer only.
  struct Behind {
    OfaPast* past;
    bool keep;
    const at::Tensor* bias;
    bool causal;
    const OfaSourceKeys* source;
    const OfaAsking* asking;
  };
  at::Tensor behind(const at::Tensor& x, const nn::Layout& layout, const Behind& read, const nn::Context& context) const;
  const OfaAttention& cross() const { return *cross_; }
  /// Dropout of sublayers' outputs, and the share of examples that a sublayer is left out for; in training only.
  void set_noise(double dropout, double drop_path) {
    dropout_ = dropout;
    drop_path_ = drop_path;
  }
  void list(nn::SiteTable& table);

 private:
  at::Tensor feed_forward(const at::Tensor& y, const nn::Layout& layout, const nn::Context& context) const;

  /// x + what a sublayer made, left out for some examples in training.
  at::Tensor joined(const at::Tensor& x, const at::Tensor& made, const nn::Layout& layout, const nn::Context& context) const;

  bool decoder_;
  double dropout_ = 0, drop_path_ = 0;
  nn::LayerNorm norm_before_, attention_norm_;
  OfaAttention attention_;
  std::unique_ptr<nn::LayerNorm> cross_norm_before_, cross_norm_;
  std::unique_ptr<OfaAttention> cross_;
  nn::LayerNorm feed_forward_norm_, inner_norm_;
  nn::Linear up_, down_;
  nn::SublayerSite attention_site_, feed_forward_site_;
};

}  // namespace mmtune::backbones
