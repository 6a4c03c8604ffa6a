#pragma once
// A co-attention layer of METER (Dou et al. 2022, arXiv 2111.02387): one stream attends to itself, then to the other stream, then passes a
// feed-forward part; every sum with the residual is normed.

#include <memory>

#include "nn/self_attention.h"

namespace mmtune::backbones {

struct CoAttentionShape {
  std::int64_t width, heads, inner, layers;
  double epsilon;
  nn::Activation activation;
};

/// The other stream as a layer sees it: its rows before the layer.
struct OtherStream {
  at::Tensor rows;
  nn::Layout layout;
};

class CoAttentionLayer {
 public:
  /// Names below `weights` as in BERT: attention.self.query, attention.output.dense, crossattention…, intermediate.dense, output.dense.
  CoAttentionLayer(const CoAttentionShape& shape, const nn::Weights& weights, std::int64_t layer);

  /// `first_only`: only row 0 of every sequence is wanted; the tokens are these rows afterwards. Sequence hooks are the caller's business:
  /// both streams' must have run before either stream's layer.
  void operator()(nn::Tokens& tokens, const OtherStream& other, bool first_only, const nn::Context& context) const;
  const nn::SequenceSite& sequence() const { return sequence_; }
  void list(nn::SiteTable& table);

  /// Multiply-accumulates with `own` rows of which `wanted` are computed, beside a stream of `others` rows.
  static std::int64_t macs(const CoAttentionShape& shape, std::int64_t own, std::int64_t wanted, std::int64_t others);

 private:
  /// An attention, its output map, and the norm of the sum with the residual.
  struct Attended {
    Attended(const CoAttentionShape& shape, const nn::Weights& weights, std::int64_t layer, nn::SublayerSite::Role role);
    at::Tensor operator()(const at::Tensor& x, const at::Tensor& rows, const nn::Layout& query_layout, const nn::Layout& key_layout,
                          const nn::Context& context) const;
    void list(nn::SiteTable& table);

    nn::SelfAttention attention;
    nn::Linear output;
    nn::LayerNorm norm;
    nn::SublayerSite site;
  };

  nn::Activation activation_;
  Attended self_, cross_;
  nn::Linear up_, down_;
  nn::LayerNorm norm_;
  nn::SublayerSite feed_forward_site_;
  nn::SequenceSite sequence_;
};

}  // namespace mmtune::backbones
