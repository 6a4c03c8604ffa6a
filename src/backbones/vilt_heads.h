#pragma once
// The heads of transformers' ViLT models for one task, which stand beside the encoder in their checkpoints. They are there so that the
// outputs of a published model can be had; what is trained here brings a head of its own.

#include <optional>

#include "backbones/config.h"
#include "nn/layers.h"
#include "nn/weights.h"

namespace mmtune::backbones {

class ViltHeads {
 public:
  /// `top`: the checkpoint's scope above the encoder. Reads what is there: `classifier.{0,1,3}` (question answering; over several pooled
  /// rows, images and text classification), `rank_output` (retrieval), `mlm_score` (masked language modelling).
  ViltHeads(const Config& config, const nn::Weights& top, std::int64_t width, std::int64_t vocabulary, double epsilon);

  /// How many pictures the classifier wants, each from a pass of its own; 0 where there is none.
  std::int64_t pictures() const { return classifier_ ? pictures_ : 0; }
  /// Of pooled rows [B, pictures·D] → [B, labels]. Undefined where there is neither a classifier nor a ranking.
  at::Tensor pooled_logits(const at::Tensor& pooled) const;
  /// Of text rows [N, D] → [N, V]; `words` [V, D] is the decoder. Undefined where the checkpoint has none.
  at::Tensor word_logits(const at::Tensor& rows, const at::Tensor& words) const;

 private:
  struct Map {
    at::Tensor weight, bias;
  };
  struct Classifier {
    Map first;
    nn::LayerNorm norm;
    Map last;
  };
  struct WordHead {
    Map transform;
    nn::LayerNorm norm;
    at::Tensor decoder;  ///< undefined: the words themselves
    at::Tensor bias;
  };

  std::int64_t pictures_ = 1;
  nn::Activation activation_;
  std::optional<Classifier> classifier_;
  std::optional<Map> ranking_;
  std::optional<WordHead> words_;
};

}  // namespace mmtune::backbones
