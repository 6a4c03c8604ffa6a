#pragma once
// A ViLT that is trained whole, with the heads of its two pretraining tasks (Kim et al. 2021, arXiv 2102.03334).

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "backbones/backbone.h"
#include "nn/parameters.h"
#include "train/pretrain/pairs_recipe.h"

namespace mmtune::train {

/// The config.json of transformers' ViltModel that a recipe describes.
Json vilt_config(const PairsModelSection& section, std::int64_t vocabulary);

class YoungVilt {
 public:
  /// `words` [V, D] is what the table of words begins with. Throws Error where section.start is no ViT of the recipe's width and sizes.
  YoungVilt(const PairsModelSection& section, const at::Tensor& words, std::uint64_t seed);

  /// The trainable leaves under the names of transformers' task models: the encoder's begin with "vilt.".
  std::vector<nn::NamedTensor> tensors() const;
  /// ids [B, T] int64, hidden [B, T] bool (padding), pixels [B, 3, S, S] float32 → [B, T + 1 + patches, D] float32.
  at::Tensor operator()(const at::Tensor& ids, const at::Tensor& padding, const at::Tensor& pixels, bool half) const;
  /// Rows [N, D] of words → [N, V].
  at::Tensor word_logits(const at::Tensor& rows, bool half) const;
  /// States [B, T', D] → [B]: the logit of "the text belongs to the picture".
  at::Tensor match_logits(const at::Tensor& states) const;
  const PairsModelSection& section() const { return section_; }
  const Json& config() const { return config_; }

 private:
  void go_on_from(const std::string& folder);

  PairsModelSection section_;
  Json config_;
  std::unique_ptr<backbones::Backbone> backbone_;
  struct Head {
    at::Tensor weight, bias;
  };
  Head transform_, norm_, rank_;
  at::Tensor word_bias_;  ///< [V]
};

}  // namespace mmtune::train
