#pragma once
// The part of Wav2Vec2 that turns samples into frames: strided convolutions over the waveform. Names as in transformers'
// Wav2Vec2FeatureEncoder.

#include <memory>
#include <vector>

#include "backbones/backbone.h"
#include "backbones/config.h"
#include "nn/layers.h"

namespace mmtune::backbones {

/// Where norms stand: `group`, behind the first convolution and over each channel's whole time; `layer`, behind every convolution and over
/// each frame's channels.
enum class FrontNorm { group, layer };

struct FrontShape {
  std::vector<std::int64_t> channels, kernels, strides;  ///< one a layer
  bool bias;
  FrontNorm norm;
  nn::Activation activation;
};

/// Throws Error when the lists contradict each other.
FrontShape read_front_shape(const Config& config);

/// One convolution with what follows it.
class FrontLayer {
 public:
  FrontLayer(const FrontShape& shape, std::size_t layer, const nn::Weights& weights);

  /// Frames [T, C] → [T', C']. Frozen and without gradients of its input, it runs as matrix products over the frames as they lie; its input
  /// is not kept.
  at::Tensor operator()(const at::Tensor& frames, const nn::Context& context) const;
  std::int64_t frames_of(std::int64_t frames) const { return frames < kernel_ ? 0 : (frames - kernel_) / stride_ + 1; }
  std::int64_t samples_for(std::int64_t frames) const { return (frames - 1) * stride_ + kernel_; }  ///< the reverse: the least
  std::int64_t macs(std::int64_t frames) const { return frames_of(frames) * kernel_ * in_ * out_; }
  void list(nn::SiteTable& table);

 private:
  enum class Norm { none, group, layer };
  /// Taps of a kernel that lie within one stride, as one matrix [out, taps · in].
  struct Taps {
    std::int64_t first, count;
    at::Tensor weight;
  };
  bool wants_gradients(const at::Tensor& frames) const;
  at::Tensor convolve_frozen(const at::Tensor& frames, nn::MatmulPrecision precision) const;
  at::Tensor differentiable(const at::Tensor& frames) const;

  std::int64_t in_, out_, kernel_, stride_;
  Norm norm_;
  nn::Activation activation_;
  std::string name_;
  at::Tensor weight_, bias_, norm_weight_, norm_bias_;
  at::Tensor split_from_;  ///< the weight that `taps_` are made of
  std::vector<Taps> taps_;
};

class Front {
 public:
  /// `weights` is the scope "feature_extractor".
  Front(const FrontShape& shape, const nn::Weights& weights);

  /// Samples [N] of sequences, padded or packed → frames [M, C]. Where samples are masked, so are the frames that begin behind the last
  /// real sample's. Every sequence gives at least one frame, or an Error is thrown.
  nn::Tokens operator()(const at::Tensor& samples, const nn::Layout& layout, const nn::Context& context) const;
  std::int64_t frames_of(std::int64_t samples) const;
  std::int64_t least_samples() const;  ///< for one frame
  std::int64_t macs(std::int64_t samples) const;
  void list(nn::SiteTable& table);

 private:
  std::vector<std::unique_ptr<FrontLayer>> layers_;
};

}  // namespace mmtune::backbones
