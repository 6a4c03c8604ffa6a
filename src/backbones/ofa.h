#pragma once
// OFA (Wang et al. 2022, arXiv 2202.03052): an encoder over patches and words, a decoder over words, places (<bin_…>) and picture codes.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backbones/backbone.h"
#include "backbones/cached_decoder.h"
#include "backbones/config.h"
#include "backbones/ofa_parts.h"
#include "backbones/ofa_stem.h"
#include "backbones/sequence_model.h"

namespace mmtune::backbones {

struct OfaShape {
  std::int64_t width = 0, heads = 0, encoder_inner = 0, decoder_inner = 0, encoder_layers = 0, decoder_layers = 0, vocabulary = 0;
  std::int64_t encoder_positions = 0, decoder_positions = 0;  ///< rows of the position tables
  std::int64_t token_buckets = 256, image_buckets = 42;
  std::int64_t image_positions = 0;  ///< rows of the table of patches' places; 0: image_buckets² + 1
  bool pictures = true;
  OfaStemShape stem;
  OfaNames names;
};

/// Words are right-padded with id 1.
struct OfaSource {
  at::Tensor words;          ///< [B, T] int64
  at::Tensor pictures;       ///< [B, 3, H, W]; undefined: none
  at::Tensor picture_there;  ///< [B] bool; undefined: all
  bool statistics = false;   ///< of the stem's batch norms (OfaStem)
};

/// What the encoder leaves for the decoder: patches, then words.
struct OfaEncoded {
  at::Tensor rows;  ///< [B·S, D]
  nn::Layout layout;
  at::Tensor positions;  ///< [S, D], normed
};

class Ofa final : public Backbone, public SequenceModel {
 public:
  Ofa(const OfaShape& shape, const nn::Weights& weights);
  const OfaShape& shape() const { return shape_; }

  OfaEncoded encode(const OfaSource& source, const nn::Context& context);
  /// Words [B, T] with teacher forcing → logits [B, T, vocabulary].
  at::Tensor decode(const at::Tensor& words, const OfaEncoded& encoded, const nn::Context& context);

  /// The same of the last word alone: [B, vocabulary].
  at::Tensor decode_last(const at::Tensor& words, const OfaEncoded& encoded, const nn::Context& context);
  /// Reads words one behind the other and keeps their keys and values; the source's are made once. Must not outlive the model.
  std::unique_ptr<CachedDecoder> decoder(const OfaEncoded& encoded, const nn::Context& context);

  SequenceTokens tokens() const override { return {}; }
  std::int64_t vocabulary() const override { return shape_.vocabulary; }
  std::int64_t longest_answer() const override { return shape_.decoder_positions; }
  void set_noise(const SequenceNoise& noise) override;
  at::Tensor taught(const ModelInputs& inputs, const std::vector<std::int64_t>& rows, const at::Tensor& said, const at::Tensor& wanted,
                    const nn::Context& context) override;
  std::unique_ptr<CachedDecoder> begin(const ModelInputs& inputs, const std::vector<std::int64_t>& rows,
                                       const nn::Context& context) override;

  /// The encoder alone. Texts packed or padded; pixel_values undefined: none; a size of 0 in picture_sizes: that text has no picture.
  ModelOutputs forward(const ModelInputs& inputs, const nn::Context& context) override;
  TensorMap forward_named(const TensorMap& inputs, const nn::Context& context) override;
  /// Of the encoder, and of the decoder's cross-attention keys and values.
  std::int64_t macs(std::int64_t tokens, bool read_first) const override;
  std::int64_t picture_macs(std::int64_t patches) const override;
  /// The stem is frozen.
  std::int64_t block_macs(std::int64_t tokens, bool read_first) const override { return macs(tokens, read_first); }

  /// Position biases [H, T, T] of an encoder's or decoder's layer over `words` words behind a picture of rows × columns patches (0: none).
  at::Tensor encoder_bias(std::int64_t layer, std::int64_t words, std::int64_t rows, std::int64_t columns) const;
  at::Tensor decoder_bias(std::int64_t layer, std::int64_t words) const;
  at::Tensor cross_bias(std::int64_t words, const OfaEncoded& encoded) const;
  OfaStem& stem() { return *stem_; }
  /// Shows the rows [N, D] that enter and leave every layer: "encoder.input", "encoder.layers.0", …
  using Watch = std::function<void(const std::string& name, const at::Tensor& rows)>;
  void set_watch(Watch watch) { watch_ = std::move(watch); }

 private:
  friend class OfaDecoder;
  void watch(const std::string& name, const at::Tensor& rows) const {
    if (watch_) watch_(name, rows);
  }
  struct Side {
    at::Tensor positions, image_positions;
    std::unique_ptr<nn::LayerNorm> embedding_norm, position_norm, image_position_norm, norm;
    std::vector<at::Tensor> token_tables, image_tables;
    std::vector<std::unique_ptr<OfaLayer>> layers;
  };
  OfaEncoded encode_inputs(const ModelInputs& inputs, const nn::Context& context);
  /// Hidden states [B·T, D] of words [B, T].
  at::Tensor decode_rows(const at::Tensor& words, const OfaEncoded& encoded, const nn::Context& context);
  void open_side(Side& side, const nn::Weights& weights, bool decoder);
  /// Queries of positions are scaled as those of words are.
  double position_scale() const;
  at::Tensor heads_of(const at::Tensor& rows) const;  ///< [T, D] → [H, T, d]
  at::Tensor positions_of(const Side& side, std::int64_t words, std::int64_t rows, std::int64_t columns) const;
  at::Tensor absolute(const at::Tensor& queries, const at::Tensor& keys, const nn::Linear& q, const nn::Linear& k) const;
  at::Tensor encoder_bias(const at::Tensor& absolute, std::int64_t layer, std::int64_t words, std::int64_t rows,
                          std::int64_t columns) const;
  at::Tensor token_bias(const Side& side, std::int64_t layer, std::int64_t words) const;

  OfaShape shape_;
  SequenceNoise noise_;
  at::Tensor embedding_;  ///< of both sides, and the output map
  Side encoder_, decoder_;
  at::Tensor types_;
  std::unique_ptr<OfaStem> stem_;
  std::unique_ptr<nn::Linear> image_projection_, position_q_, position_k_, self_q_, self_k_, cross_q_, cross_k_;
  std::unique_ptr<nn::LayerNorm> patch_norm_;
  at::Tensor token_buckets_, image_buckets_;
  Watch watch_;
};

}  // namespace mmtune::backbones
