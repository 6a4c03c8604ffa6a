#pragma once
// T5 (model_type "t5"; Raffel et al. 2020, arXiv 1910.10683) and FlanT5: an encoder and a decoder with biases by distance in the place of
// positions, and RMS norms. Names as in transformers' T5ForConditionalGeneration.

#include <memory>
#include <vector>

#include "backbones/backbone.h"
#include "backbones/cached_decoder.h"
#include "backbones/config.h"
#include "backbones/language_attention.h"
#include "backbones/sequence_model.h"
#include "nn/rms_norm.h"

namespace mmtune::backbones {

struct T5Shape {
  std::int64_t width = 0, heads = 0, head_width = 0, inner = 0, encoder_layers = 0, decoder_layers = 0, vocabulary = 0;
  std::int64_t buckets = 32, farthest = 128;
  double epsilon = 1e-6;
  nn::Activation activation = nn::Activation::relu;
  bool gated = false;
  bool scaled_outputs = true;  ///< states are scaled by width^-½ before the head
  std::int64_t start = 0;      ///< the token that a decoder's text begins with
  std::int64_t end = 1, padding = 0;
};

/// The bucket of a distance, key place minus query place: exact for near ones, then by their logarithm.
std::int64_t t5_bucket(std::int64_t distance, bool both_sides, std::int64_t buckets, std::int64_t farthest);

/// One layer of the encoder, or with cross-attention of the decoder.
class T5Layer {
 public:
  T5Layer(const nn::Weights& weights, const T5Shape& shape, std::int64_t layer, bool decoder);
  /// Keys and values of the encoder's rows, for the decoder.
  struct Source {
    std::vector<at::Tensor> keys_values;
    const nn::Layout* layout;
  };
  void operator()(nn::Tokens& tokens, const LanguageAttention::Pass& pass, const Source* source, const nn::Context& context) const;
  std::vector<at::Tensor> cross_keys_values(const at::Tensor& rows, const nn::Context& context) const;
  void list(nn::SiteTable& table);

 private:
  T5Shape shape_;
  nn::RmsNorm norm_;
  LanguageAttention attention_;
  std::unique_ptr<nn::RmsNorm> cross_norm_;
  std::unique_ptr<LanguageAttention> cross_;
  nn::RmsNorm feed_forward_norm_;
  std::unique_ptr<nn::Linear> gate_;
  nn::Linear up_, down_;
  nn::SublayerSite attention_site_, cross_site_, feed_forward_site_;
};

class T5 final : public Backbone, public SequenceModel {
 public:
  /// `shared`: the scope whose tensors are "shared.weight", "encoder.…", "decoder.…"; `head` holds "weight", or nothing.
  T5(const Config& config, const nn::Weights& weights, const nn::Weights& head);
  const T5Shape& shape() const { return shape_; }
  void finish(const nn::Weights& weights) { report_ = weights.finish(); }

  /// Word embeddings [N, D].
  at::Tensor embed(const at::Tensor& ids) const;
  /// Rows [B·S, D] of a uniform layout → the encoder's output.
  at::Tensor encode(const at::Tensor& embeds, const nn::Layout& layout, const nn::Context& context) const;
  /// Decoder states [B·T, D] behind the last norm, of words [B, T] that begin with the start token. `mask` [B, T] of them, or undefined.
  at::Tensor decode(const at::Tensor& words, const at::Tensor& mask, const at::Tensor& encoded, const nn::Layout& layout,
                    const nn::Context& context) const;
  /// [M, V] of states [M, D].
  at::Tensor logits(const at::Tensor& states, const nn::Context& context) const;
  /// A decoder that has read nothing yet. `encoded` as encode() gives it. No gradient flows. The model must outlive it.
  std::unique_ptr<CachedDecoder> decoder(const at::Tensor& encoded, const nn::Layout& layout, const nn::Context& context) const;

  SequenceTokens tokens() const override { return {.start = shape_.start, .padding = shape_.padding, .end = shape_.end}; }
  std::int64_t vocabulary() const override { return shape_.vocabulary; }
  std::int64_t longest_answer() const override { return info_.max_length; }
  void set_noise(const SequenceNoise& noise) override;
  at::Tensor taught(const ModelInputs& inputs, const std::vector<std::int64_t>& rows, const at::Tensor& said, const at::Tensor& wanted,
                    const nn::Context& context) override;
  std::unique_ptr<CachedDecoder> begin(const ModelInputs& inputs, const std::vector<std::int64_t>& rows,
                                       const nn::Context& context) override;

  /// The encoder alone.
  ModelOutputs forward(const ModelInputs& inputs, const nn::Context& context) override;
  /// input_ids or inputs_embeds, attention_mask → encoder_last_hidden_state; with decoder_input_ids (and decoder_attention_mask)
  /// last_hidden_state and logits too.
  TensorMap forward_named(const TensorMap& inputs, const nn::Context& context) override;
  /// Of the encoder.
  std::int64_t macs(std::int64_t tokens, bool read_first) const override;
  std::int64_t decoder_macs(std::int64_t tokens, std::int64_t source) const;

 private:
  friend class T5Decoder;
  /// What the encoder makes of texts, in a uniform layout.
  struct Encoded {
    at::Tensor rows;
    nn::Layout layout;
  };
  Encoded encode_inputs(const ModelInputs& inputs, const nn::Context& context) const;
  /// The same, a sequence for each of `rows`.
  Encoded encode_chosen(const ModelInputs& inputs, const std::vector<std::int64_t>& rows, const nn::Context& context) const;
  /// [H, Tq, Tk] of queries and keys at these places.
  at::Tensor bias(bool decoder, const std::vector<std::int64_t>& queries, const std::vector<std::int64_t>& keys) const;
  at::Tensor run_decoder(const at::Tensor& rows, const nn::Layout& layout, const at::Tensor& bias, ReadingCache* cache,
                         const std::vector<std::vector<at::Tensor>>& cross, const nn::Layout& source_layout,
                         const nn::Context& context) const;
  std::vector<std::vector<at::Tensor>> cross_keys_values(const at::Tensor& encoded, const nn::Context& context) const;

  T5Shape shape_;
  at::Tensor words_, encoder_distances_, decoder_distances_;
  std::string words_name_, encoder_distances_name_, decoder_distances_name_;
  std::vector<std::unique_ptr<T5Layer>> encoder_, decoder_;
  nn::RmsNorm encoder_norm_, decoder_norm_;
  std::unique_ptr<nn::Linear> head_;
  std::vector<nn::SequenceSite> sequence_sites_;
};

}  // namespace mmtune::backbones
