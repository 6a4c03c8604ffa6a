#pragma once
// Root mean square norm (Zhang and Sennrich 2019, arXiv 1910.07467): LLaMA's and T5's.

#include "nn/layers.h"

namespace mmtune::nn {

/// x / sqrt(mean(x²) + epsilon) · weight over the last axis.
class RmsNorm {
 public:
  RmsNorm(const Weights& weights, std::int64_t width, double epsilon);
  /// x [N, D] → [N, D]. Keeps x and a number a row for the gradient.
  at::Tensor operator()(const at::Tensor& x) const;
  void list(SiteTable& table);

 private:
  std::string name_;
  std::int64_t width_;
  double epsilon_;
  at::Tensor weight_;
};

}  // namespace mmtune::nn
