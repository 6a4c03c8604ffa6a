#include "train/pretrain/efficientnet_lite.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/hash.h"
#include "io/safetensors.h"
#include "nn/weights.h"

namespace mmtune::train {

namespace {

struct Stage {
  std::int64_t repeats, kernel, stride, expansion, in, out;
};
/// Table 1 of the paper; Lite0 keeps these depths and widths.
constexpr std::array<Stage, 7> stages{{{1, 3, 1, 1, 32, 16},
                                       {2, 3, 2, 6, 16, 24},
                                       {2, 5, 2, 6, 24, 40},
                                       {3, 3, 2, 6, 40, 80},
                                       {3, 5, 1, 6, 80, 112},
                                       {4, 5, 2, 6, 112, 192},
                                       {1, 3, 1, 6, 192, 320}}};
constexpr double batch_norm_epsilon = 1e-3;

class Reader {
 public:
  explicit Reader(const std::filesystem::path& path) : file_(io::SafetensorsFile::open(path)) {
    for (const io::TensorEntry& entry : file_.tensors()) fingerprint_.add_field(entry.name).add(entry.data);
  }
  at::Tensor tensor(const std::string& name, at::IntArrayRef shape) const {
    const io::TensorEntry* entry = file_.find(name);
    if (entry == nullptr || at::IntArrayRef(entry->shape) != shape) {
      std::string expected = "a tensor of shape [";
      for (const std::int64_t size : shape) expected += (expected.back() == '[' ? "" : ", ") + std::to_string(size);
      throw Error({.what = "not the weights of an EfficientNet-Lite0: tensor \"" + name + "\" is " + (entry ? "misshapen" : "missing"),
                   .where = file_.where(),
                   .expected = expected + "]"});
    }
    return nn::to_tensor_exact(*entry).to(at::kFloat);
  }
  std::string fingerprint() const { return fingerprint_.hex(); }

 private:
  io::SafetensorsFile file_;
  Fingerprint fingerprint_;
};

/// The convolution [out, in, k, k] with the batch normalisation behind it folded in.
std::pair<at::Tensor, at::Tensor> folded(const Reader& reader, const std::string& convolution, const std::string& norm,
                                         at::IntArrayRef shape, bool half) {
  const at::IntArrayRef channels = shape.slice(0, 1);
  const at::Tensor variance = reader.tensor(norm + ".running_var", channels);
  const at::Tensor scale = reader.tensor(norm + ".weight", channels) / (variance + batch_norm_epsilon).sqrt();
  const at::Tensor weight = reader.tensor(convolution + ".weight", shape) * scale.view({-1, 1, 1, 1});
  const at::Tensor bias = reader.tensor(norm + ".bias", channels) - reader.tensor(norm + ".running_mean", channels) * scale;
  const auto type = half ? at::kBFloat16 : at::kFloat;
  return {weight.to(type).contiguous(at::MemoryFormat::ChannelsLast), bias.to(type)};
}

}  // namespace

EfficientNetLite::EfficientNetLite(const std::filesystem::path& weights, bool half) : half_(half) {
  const Reader reader(weights);
  fingerprint_ = reader.fingerprint();
  const auto convolution = [&](const std::string& name, const std::string& norm, at::IntArrayRef shape, std::int64_t stride,
                               std::int64_t groups) {
    auto [weight, bias] = folded(reader, name, norm, shape, half);
    return Convolution{weight, bias, stride, groups};
  };
  stem_ = convolution("_conv_stem", "_bn0", {32, 3, 3, 3}, 2, 1);
  for (const Stage& stage : stages) {
    for (std::int64_t i = 0; i < stage.repeats; ++i) {
      const std::string name = "_blocks." + std::to_string(blocks_.size()) + ".";
      const std::int64_t in = i == 0 ? stage.in : stage.out, inner = in * stage.expansion;
      Block block;
      if (stage.expansion > 1) block.expand = {convolution(name + "_expand_conv", name + "_bn0", {inner, in, 1, 1}, 1, 1)};
      block.depthwise =
          convolution(name + "_depthwise_conv", name + "_bn1", {inner, 1, stage.kernel, stage.kernel}, i == 0 ? stage.stride : 1, inner);
      block.project = convolution(name + "_project_conv", name + "_bn2", {stage.out, inner, 1, 1}, 1, 1);
      block.residual = i > 0;
      blocks_.push_back(std::move(block));
    }
  }
  head_ = convolution("_conv_head", "_bn1", {width, 320, 1, 1}, 1, 1);
}

at::Tensor EfficientNetLite::convolve(const at::Tensor& x, const Convolution& c) {
  const std::int64_t kernel = c.weight.size(2);
  if (c.stride == 1) return at::conv2d(x, c.weight, c.bias, 1, kernel / 2, 1, c.groups);
  // TensorFlow's "SAME": just enough padding for ceil(size / stride) outputs, the odd pixel behind.
  const auto padding = [&](std::int64_t size) {
    const std::int64_t outputs = (size + c.stride - 1) / c.stride;
    return std::max<std::int64_t>((outputs - 1) * c.stride + kernel - size, 0);
  };
  const std::int64_t down = padding(x.size(2)), across = padding(x.size(3));
  const at::Tensor padded = at::constant_pad_nd(x, {across / 2, across - across / 2, down / 2, down - down / 2});
  const std::int64_t no_padding = 0;  // a literal 0 could also be the name of a padding
  return at::conv2d(padded, c.weight, c.bias, c.stride, no_padding, 1, c.groups);
}

at::Tensor EfficientNetLite::feature_map(const at::Tensor& pictures) const {
  const c10::NoGradGuard no_gradients;
  const auto relu6 = [](const at::Tensor& x) { return x.clamp_(0.0, 6.0); };
  at::Tensor x = pictures.mul(255.0).sub_(127.0).div_(128.0).to(half_ ? at::kBFloat16 : at::kFloat);
  x = relu6(convolve(x.contiguous(at::MemoryFormat::ChannelsLast), stem_));
  for (const Block& block : blocks_) {
    at::Tensor y = x;
    for (const Convolution& expand : block.expand) y = relu6(convolve(y, expand));
    y = convolve(relu6(convolve(y, block.depthwise)), block.project);
    x = block.residual ? y.add_(x) : y;
  }
  return relu6(convolve(x, head_)).to(at::kFloat).contiguous();
}

}  // namespace mmtune::train
