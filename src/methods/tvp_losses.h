#pragma once
// The objective of TVP (Zhang et al., CVPR 2024): L = (1/M) Σ_m (task_m + λ1 · FCA_m) − λ2 · T over M source models.

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "backbones/backbone.h"
#include "experts/pixel_prompt.h"
#include "io/checkpoint.h"
#include "text/tokenizer.h"

namespace mmtune::methods {

/// Feature Consistency Alignment: the mean over batch and tokens of ‖f_prompted − f_clean‖₂ (not squared). Both [B, N, D]: the visual
/// tokens as the language model gets them. No gradient flows into `clean`; where the two are equal the gradient is 0.
at::Tensor feature_consistency(const at::Tensor& prompted, const at::Tensor& clean);

/// Task Semantics Enrichment: (1/B) Σ_b exp(ℓ) · cos(e_b, u_b), the diagonal only. `pictures`, `texts` [B, E], of any length.
at::Tensor task_semantics(const at::Tensor& pictures, const at::Tensor& texts, const at::Tensor& log_scale);

/// What ℓ is clamped to between forward and backward pass of every step: a step's own value and gradient know nothing of it.
inline constexpr double largest_log_scale = 4.6052;

/// CLIP as TSE uses it: its picture tower is shown what the source models are shown, captions are embedded once.
class CaptionModel {
 public:
  /// Opens a CLIP model folder. Throws UsageError for a model without both towers, projections and a logit_scale.
  explicit CaptionModel(const io::Checkpoint& checkpoint);
  /// The towers of a model that is open already; `norm`: of its pictures.
  CaptionModel(std::unique_ptr<backbones::Backbone> clip, at::Tensor log_scale, const experts::ChannelNorm& norm);
  ~CaptionModel();

  /// Captions' embeddings [C, E], not normalised. Needs a model that was opened with its tokenizer.
  at::Tensor embed(const std::vector<std::string>& captions) const;
  /// Pictures' embeddings [B, E], not normalised, of normalised pixels [B, 3, R, R]; differentiable by them.
  at::Tensor embed_pictures(const at::Tensor& pixels) const;
  /// T of the pictures and of their captions' embeddings, with the present ℓ.
  at::Tensor operator()(const at::Tensor& pixels, const at::Tensor& captions) const;
  /// To be called between the forward and the backward pass of a step: ℓ of the next one.
  void clamp_scale();

  const experts::ChannelNorm& norm() const { return norm_; }
  std::int64_t side() const;  ///< R
  const at::Tensor& log_scale() const { return log_scale_; }

 private:
  std::unique_ptr<backbones::Backbone> pictures_, texts_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  std::int64_t longest_ = 0;
  at::Tensor log_scale_;
  experts::ChannelNorm norm_;
};

}  // namespace mmtune::methods
