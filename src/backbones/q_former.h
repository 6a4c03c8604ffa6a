#pragma once
// Q-Former (Li et al. 2023, arXiv 2301.12597): BERT's blocks over learned queries (and an instruction's words), in which the queries read a
// picture's rows by cross-attention in every second layer. Names as in transformers' InstructBlipQFormerModel.

#include <memory>
#include <vector>

#include "backbones/config.h"
#include "nn/self_attention.h"

namespace mmtune::backbones {

struct QFormerShape {
  std::int64_t width = 0, heads = 0, inner = 0, layers = 0;
  std::int64_t source_width = 0;  ///< of the picture's rows
  std::int64_t cross_every = 2;
  bool text = false;                           ///< reads an instruction
  std::int64_t vocabulary = 0, positions = 0;  ///< of its words
  double epsilon = 1e-12;
  nn::Activation activation = nn::Activation::gelu;
};
QFormerShape read_q_former_shape(const Config& config, bool text);

/// Words of an instruction, padded on the right.
struct QFormerText {
  at::Tensor ids;   ///< [B, T] int64
  at::Tensor mask;  ///< [B, T] bool, or undefined: all are there
};

class QFormerLayer {
 public:
  QFormerLayer(const nn::Weights& weights, const QFormerShape& shape, std::int64_t layer);
  struct Rows {
    at::Tensor queries;  ///< [B·Q, D]
    at::Tensor text;     ///< [B·T, D], or undefined
  };
  /// `mask` [B, Q+T] or undefined; `source` [B·S, E]. `text_wanted`: whether somebody reads the text's rows afterwards.
  Rows operator()(const Rows& rows, std::int64_t batch, const at::Tensor& mask, const at::Tensor& source, bool text_wanted,
                  const nn::Context& context) const;
  void list(nn::SiteTable& table);
  bool crosses() const { return cross_query_ != nullptr; }

 private:
  struct FeedForward {
    FeedForward(const nn::Weights& up, const nn::Weights& out, const QFormerShape& shape, std::int64_t layer);
    at::Tensor operator()(const at::Tensor& x, nn::Activation activation, const nn::Context& context) const;
    nn::Linear up, down;
    nn::LayerNorm norm;
  };
  QFormerShape shape_;
  nn::SelfAttention attention_;
  nn::Linear output_;
  nn::LayerNorm norm_;
  std::unique_ptr<nn::Linear> cross_query_, cross_key_, cross_value_, cross_output_;
  std::unique_ptr<nn::LayerNorm> cross_norm_;
  FeedForward query_feed_forward_;
  std::unique_ptr<FeedForward> text_feed_forward_;
};

class QFormer {
 public:
  QFormer(const nn::Weights& weights, const QFormerShape& shape);
  const QFormerShape& shape() const { return shape_; }
  /// queries [1, Q, D], a picture's rows [B·S, E], and an instruction where the shape says so → the queries' last states [B, Q, D];
  /// `with_text`: the text's behind them, [B, Q+T, D].
  at::Tensor operator()(const at::Tensor& queries, const at::Tensor& source, std::int64_t batch, const QFormerText* text, bool with_text,
                        const nn::Context& context) const;
  void list(nn::SiteTable& table);
  std::int64_t macs(std::int64_t queries, std::int64_t words, std::int64_t source) const;

 private:
  QFormerShape shape_;
  std::string path_;
  at::Tensor words_, positions_;
  nn::LayerNorm norm_;
  std::vector<std::unique_ptr<QFormerLayer>> layers_;
};

}  // namespace mmtune::backbones
