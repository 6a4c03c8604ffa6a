#pragma once
// EfficientNet-Lite0 (TensorFlow's mobile variant of Tan and Le, arXiv 1905.11946: no squeeze-and-excitation, ReLU6), forward only:
// the frozen teacher of pretraining.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <unordered_map>
#include <vector>

namespace mmtune::train {

class EfficientNetLite {
 public:
  /// Reads the weights under the names of the PyTorch conversion (`_conv_stem.weight`, `_blocks.0._depthwise_conv.weight`, …); batch
  /// normalisation is folded into the convolutions. `half`: convolutions in bfloat16. Throws Error naming a missing or misshapen tensor.
  EfficientNetLite(const std::filesystem::path& weights, bool half);

  /// Pictures [B, 3, S, S] float32 in 0 … 1 → the last feature map [B, 1280, S / 32, S / 32] float32 (sizes rounded up). Nothing is kept
  /// for gradients.
  at::Tensor feature_map(const at::Tensor& pictures) const;
  static constexpr std::int64_t stride = 32;
  static constexpr std::int64_t width = 1280;
  /// Of the weights.
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  struct Convolution {
    at::Tensor weight, bias;
    std::int64_t stride = 1, groups = 1;
  };
  struct Block {
    std::vector<Convolution> expand;  ///< one, or none where the block does not widen
    Convolution depthwise, project;
    bool residual = false;
  };
  static at::Tensor convolve(const at::Tensor& x, const Convolution& convolution);

  Convolution stem_, head_;
  std::vector<Block> blocks_;
  bool half_;
  std::string fingerprint_;
};

}  // namespace mmtune::train
