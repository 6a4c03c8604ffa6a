#pragma once
// The tower under pretraining with the heads that its losses need, and how it is written out.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>

#include "nn/parameters.h"
#include "train/pretrain/loop.h"
#include "train/pretrain/text_targets.h"
#include "train/pretrain/view_bank.h"
#include "train/pretrain/young_vit.h"

namespace mmtune::train {

/// One step's input.
struct PretrainBatch {
  std::vector<std::int64_t> pictures, views;
  at::Tensor pixels;    ///< [B, 3, S, S] float32, normalised
  at::Tensor kept;      ///< [B, m] int64, the patches that are shown; undefined: all
  at::Tensor features;  ///< [B, F] the teacher's, standardised; undefined without a teacher
  at::Tensor cells;     ///< [B, m, R] the same for every patch that is shown: of the cell of the teacher's map that it lies in
  at::Tensor targets;   ///< [B, U]; undefined without texts
};

class PretrainModel {
 public:
  /// `text_width`: of the text encoder's embeddings; 0 without.
  PretrainModel(const PretrainRecipe& recipe, std::int64_t text_width);

  /// Adds every trainable tensor.
  void list(nn::Parameters& parameters) const;
  /// The terms "text", "teacher" and "patch". The class token and the mean over the patches each feed heads of their own: cosine to the
  /// teacher's feature, softmax over the texts (the mean of both losses counts). Every patch is compared with its own place in the
  /// teacher's map.
  LossTerms losses(const PretrainBatch& batch, const at::Tensor& embeddings, bool half) const;
  const YoungVit& tower() const { return tower_; }

  /// Writes the model folder; see pretrain().
  void write(const std::filesystem::path& folder) const;

 private:
  YoungVit tower_;
  struct Head {
    at::Tensor weight, bias;  ///< [out, D], [out]; no bias on the way to texts
    at::Tensor operator()(const at::Tensor& x) const { return at::linear(x, weight, bias); }
  };
  Head text_first_, text_mean_, teacher_first_, teacher_mean_, patch_;
  at::Tensor log_scale_;  ///< [1]
};

}  // namespace mmtune::train
