#pragma once
// The objective of a step of TVP and its gradient with respect to the prompt, a source model after the other.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "methods/clean_features.h"
#include "methods/prompted_model.h"
#include "methods/tvp_losses.h"

namespace mmtune::methods {

/// A model that gradients are taken from, with what is asked of it.
struct Source {
  PromptedModel model;
  std::unique_ptr<Questions> questions;
  std::optional<CleanFeatures> clean;
};

/// The pictures of a step.
struct PromptBatch {
  std::vector<std::int64_t> examples;  ///< indices into the training data
  std::vector<std::uint8_t> flipped;   ///< one an example
  at::Tensor pictures;                 ///< [B, 3, F, F] in [0, 1], framed
};

struct ObjectiveOptions {
  double fca = 0.0, tse = 0.0;
  ConsistencyFeatures features = ConsistencyFeatures::projected;
  std::int64_t micro_batch = 0;  ///< 0: the whole batch at once
  nn::MatmulPrecision matmul_precision = nn::MatmulPrecision::high;
  bool recompute = false;
};

struct ObjectiveValue {
  double total = 0;
  std::vector<double> main;  ///< one a source
  std::vector<double> fca;   ///< one a source; empty where its weight is 0
  double tse = 0;            ///< T
};

class Objective {
 public:
  /// `captions`: embeddings [C', E], and `caption_of` the row of each training example; undefined and empty where tse is 0.
  Objective(const ObjectiveOptions& options, const experts::PixelPrompt& prompt, std::vector<Source>& sources, CaptionModel* caption_model,
            at::Tensor captions, std::vector<std::int64_t> caption_of);

  /// L = (1/M) Σ_m (task_m + λ1 FCA_m) − λ2 T of the batch; its gradient is added to the prompt's. The prompted picture is encoded once
  /// for both losses of a source; micro-batches are weighted by their answer tokens (task) and pictures (FCA, TSE), so that their sum is
  /// the batch's.
  ObjectiveValue operator()(const data::Dataset& dataset, const PromptBatch& batch, experts::PatchPlace place);

 private:
  void source_terms(Source& source, const data::Dataset& dataset, const PromptBatch& batch, experts::PatchPlace place,
                    ObjectiveValue& value);
  std::vector<at::Tensor> clean_features(Source& source, std::span<const backbones::Instruction> instructions, const PromptBatch& batch,
                                         std::int64_t begin, std::int64_t count) const;
  at::Tensor projected(Source& source, std::span<const at::Tensor> features) const;
  double semantics(const PromptBatch& batch, experts::PatchPlace place);
  nn::Context context() const;

  ObjectiveOptions options_;
  const experts::PixelPrompt& prompt_;
  std::vector<Source>& sources_;
  CaptionModel* caption_model_;
  at::Tensor captions_;
  std::vector<std::int64_t> caption_of_;
};

}  // namespace mmtune::methods
