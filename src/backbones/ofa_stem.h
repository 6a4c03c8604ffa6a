#pragma once
// OFA's eyes: the first three stages of a ResNet (He et al. 2016, arXiv 1512.03385; strides on the 3×3 convolutions).

#include <vector>

#include "nn/sites.h"
#include "nn/weights.h"

namespace mmtune::backbones {

struct OfaStemShape {
  std::int64_t first = 64;                         ///< channels of the first convolution
  std::vector<std::int64_t> planes{64, 128, 256};  ///< of a stage's 3×3 convolutions
  std::vector<std::int64_t> blocks{3, 4, 23};
  static constexpr std::int64_t expansion = 4;
  std::int64_t channels() const { return planes.back() * expansion; }
};

class OfaStem {
 public:
  OfaStem(const nn::Weights& weights, const OfaStemShape& shape);
  /// Pictures [B, 3, H, W] → [B, channels, H / 16, W / 16]. `statistics`: batch norms use the batch's own, and remember them, as the
  /// released training does; otherwise they use those that they have.
  at::Tensor operator()(const at::Tensor& pictures, bool statistics = false);
  /// Multiply-accumulates for as many patches.
  std::int64_t macs(std::int64_t patches) const;
  void list(nn::SiteTable& table);
  const at::Tensor& first_running_mean() const { return first_norm_.mean; }

 private:
  struct Norm {
    at::Tensor weight, bias, mean, variance;
    std::string name;
    at::Tensor operator()(const at::Tensor& x, bool statistics) const;
  };
  struct Block {
    at::Tensor convolutions[3], shortcut;  ///< the last undefined where the input goes on as it is
    Norm norms[3], shortcut_norm;
    std::int64_t stride = 1;
    std::string name;
  };
  static Norm norm(const nn::Weights& weights, std::int64_t channels);

  at::Tensor first_;
  Norm first_norm_;
  std::vector<Block> blocks_;
  std::string name_;
};

}  // namespace mmtune::backbones
