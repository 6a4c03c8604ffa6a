#pragma once
// What a tower is aligned with: the frozen text encoder's embedding of every text of a list of pictures.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "train/pretrain/pictures.h"

namespace mmtune::train {

struct TextTargets {
  std::vector<std::string> texts;                    ///< distinct, in the order of their first picture
  at::Tensor embeddings;                             ///< [U, E] float32, of length 1
  std::vector<std::vector<std::int64_t>> positives;  ///< for each picture, the rows that describe it
  std::string encoder;                               ///< fingerprint of the text encoder

  /// For pictures of a batch: [B, U] float32, each row's weight shared evenly by the picture's own texts; a row of zeros where it has none.
  at::Tensor targets(const std::vector<std::int64_t>& pictures) const;
};

/// Embeds with the model's mean-pooled last hidden state, as sentence encoders are trained. Pictures of weight 0 are left out (they have no
/// positives). Throws Error: the model is not a text encoder, or no picture has a text.
TextTargets embed_texts(const std::string& model, const std::vector<Picture>& pictures);

/// Cross-entropy between `targets` [B, U] and the softmax of scale · cos(projected, embeddings), averaged over the pictures that have
/// texts.
at::Tensor text_loss(const at::Tensor& projected, const at::Tensor& embeddings, const at::Tensor& targets, const at::Tensor& log_scale);

}  // namespace mmtune::train
