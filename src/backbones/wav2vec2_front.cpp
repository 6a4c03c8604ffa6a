#include "backbones/wav2vec2_front.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "nn/split_product.h"

namespace mmtune::backbones {

namespace {

constexpr double norm_epsilon = 1e-5;  // PyTorch's default for both norms, which Wav2Vec2 leaves as it is

/// Every column of x [T, C] to zero mean and unit variance, then weight · x + bias, in place. ATen's own variance over rows is several
/// times slower.
void norm_columns(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  constexpr std::int64_t block = 64;
  const std::int64_t rows = x.size(0), columns = x.size(1);
  auto* const values = x.data_ptr<float>();
  const at::Tensor scale = weight.contiguous(), shift = bias.contiguous();
  const auto* const w = scale.const_data_ptr<float>();
  const auto* const b = shift.const_data_ptr<float>();
  at::parallel_for(0, (columns + block - 1) / block, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t part = begin; part < end; ++part) {
      const std::int64_t first = part * block, count = std::min(block, columns - first);
      std::array<double, block> mean{}, squares{};
      std::array<float, block> factor{}, offset{};
      // Sums of short runs in float keep the wide loops in single precision; the runs are added in double.
      constexpr std::int64_t run = 256;
      const auto accumulate = [&](std::array<double, block>& totals, const auto& term) {
        for (std::int64_t from = 0; from < rows; from += run) {
          std::array<float, block> sums{};
          for (std::int64_t r = from; r < std::min(from + run, rows); ++r) {
            const float* const row = values + r * columns + first;
            for (std::int64_t c = 0; c < count; ++c) sums[static_cast<std::size_t>(c)] += term(row[c], static_cast<std::size_t>(c));
          }
          for (std::size_t c = 0; c < sums.size(); ++c) totals[c] += static_cast<double>(sums[c]);
        }
      };
      accumulate(mean, [](float value, std::size_t) { return value; });
      for (std::size_t c = 0; c < mean.size(); ++c) offset[c] = static_cast<float>(mean[c] / static_cast<double>(rows));
      accumulate(squares, [&](float value, std::size_t c) { return (value - offset[c]) * (value - offset[c]); });
      for (std::int64_t c = 0; c < count; ++c) {
        const auto i = static_cast<std::size_t>(c);
        factor[i] =
            static_cast<float>(static_cast<double>(w[first + c]) / std::sqrt(squares[i] / static_cast<double>(rows) + norm_epsilon));
        offset[i] = b[first + c] - offset[i] * factor[i];
      }
      for (std::int64_t r = 0; r < rows; ++r) {
        float* const row = values + r * columns + first;
        for (std::int64_t c = 0; c < count; ++c)
          row[c] = row[c] * factor[static_cast<std::size_t>(c)] + offset[static_cast<std::size_t>(c)];
      }
    }
  });
}

/// The activation of a tensor that nobody else needs.
at::Tensor activate_own(at::Tensor x, nn::Activation activation) {
  if (activation == nn::Activation::gelu) return at::gelu_(x);
  return nn::activate(x, activation);
}

bool learns(const at::Tensor& tensor) {
  return tensor.defined() && tensor.requires_grad();
}

}  // namespace

FrontShape read_front_shape(const Config& config) {
  const auto list = [&](const char* key, const std::vector<std::int64_t>& standard) {
    return config.has(key) ? config.integers(key) : standard;
  };
  FrontShape shape{.channels = list("conv_dim", std::vector<std::int64_t>(7, 512)),
                   .kernels = list("conv_kernel", {10, 3, 3, 3, 3, 2, 2}),
                   .strides = list("conv_stride", {5, 2, 2, 2, 2, 2, 2}),
                   .bias = config.flag("conv_bias", false),
                   .norm = FrontNorm::group,
                   .activation = nn::activation_named(config.text("feat_extract_activation", "gelu"), config.where())};
  if (shape.kernels.size() != shape.channels.size() || shape.strides.size() != shape.channels.size())
    throw Error({.what = "conv_dim, conv_kernel and conv_stride differ in length", .where = config.where()});
  const std::string norm = config.text("feat_extract_norm", "group");
  if (norm != "group" && norm != "layer")
    throw Error({.what = "feat_extract_norm is not supported",
                 .where = config.where(),
                 .expected = "group or layer",
                 .got = "\"" + printable(norm) + "\""});
  if (norm == "layer") shape.norm = FrontNorm::layer;
  return shape;
}

FrontLayer::FrontLayer(const FrontShape& shape, std::size_t layer, const nn::Weights& w)
    : in_(layer == 0 ? 1 : shape.channels[layer - 1]),
      out_(shape.channels[layer]),
      kernel_(shape.kernels[layer]),
      stride_(shape.strides[layer]),
      norm_(shape.norm == FrontNorm::layer ? Norm::layer
            : layer == 0                   ? Norm::group
                                           : Norm::none),
      activation_(shape.activation),
      name_(w.path()),
      weight_((w / "conv").tensor("weight", {out_, in_, kernel_})) {
  if (shape.bias) bias_ = (w / "conv").tensor("bias", {out_}, nn::Init::zeros);
  if (norm_ != Norm::none) {
    norm_weight_ = (w / "layer_norm").tensor("weight", {out_}, nn::Init::ones);
    norm_bias_ = (w / "layer_norm").tensor("bias", {out_}, nn::Init::zeros);
  }
  split_from_ = weight_;
  for (std::int64_t first = 0; first < kernel_; first += stride_) {
    const std::int64_t count = std::min(stride_, kernel_ - first);
    taps_.push_back({first, count, weight_.narrow(2, first, count).transpose(1, 2).reshape({out_, count * in_}).contiguous()});
  }
}

bool FrontLayer::wants_gradients(const at::Tensor& frames) const {
  if (!at::GradMode::is_enabled()) return false;
  return learns(frames) || learns(weight_) || learns(bias_) || learns(norm_weight_) || learns(norm_bias_);
}

at::Tensor FrontLayer::convolve_frozen(const at::Tensor& frames, nn::MatmulPrecision precision) const {
  const at::Tensor x = frames.contiguous();
  const std::int64_t count = frames_of(x.size(0));
  // The taps within one stride of a frame lie side by side, and those of the next frame one stride further: a matrix as it is.
  at::Tensor y;
  for (const Taps& taps : taps_) {
    const at::Tensor windows = x.as_strided({count, taps.count * in_}, {stride_ * in_, 1}, x.storage_offset() + taps.first * in_);
    nn::LeftFactor left(windows, precision);
    if (y.defined()) {
      left.add_transposed(taps.weight, y);
    } else {
      y = left.times_transposed(taps.weight, bias_);
    }
  }
  return y;
}

at::Tensor FrontLayer::differentiable(const at::Tensor& frames) const {
  at::Tensor y = at::conv1d(frames.t().unsqueeze(0), weight_, bias_, stride_);
  if (norm_ == Norm::group) y = at::group_norm(y, out_, norm_weight_, norm_bias_, norm_epsilon);
  y = y.squeeze(0).t();
  if (norm_ == Norm::layer) y = at::layer_norm(y, {out_}, norm_weight_, norm_bias_, norm_epsilon);
  return nn::activate(y, activation_);
}

at::Tensor FrontLayer::operator()(const at::Tensor& frames, const nn::Context& context) const {
  if (wants_gradients(frames) || !weight_.is_same(split_from_) || !weight_.device().is_cpu()) return differentiable(frames);
  const at::NoGradGuard no_grad;
  at::Tensor y = convolve_frozen(frames, context.matmul_precision);
  if (norm_ == Norm::group) norm_columns(y, norm_weight_, norm_bias_);
  if (norm_ == Norm::layer) y = at::layer_norm(y, {out_}, norm_weight_, norm_bias_, norm_epsilon);
  return activate_own(std::move(y), activation_);
}

void FrontLayer::list(nn::SiteTable& table) {
  table.tensors.push_back({name_ + ".conv.weight", &weight_});
  if (bias_.defined()) table.tensors.push_back({name_ + ".conv.bias", &bias_});
  if (norm_ == Norm::none) return;
  table.tensors.push_back({name_ + ".layer_norm.weight", &norm_weight_});
  table.tensors.push_back({name_ + ".layer_norm.bias", &norm_bias_});
}

Front::Front(const FrontShape& shape, const nn::Weights& w) {
  for (std::size_t layer = 0; layer < shape.channels.size(); ++layer)
    layers_.push_back(std::make_unique<FrontLayer>(shape, layer, w / "conv_layers" / static_cast<std::int64_t>(layer)));
}

nn::Tokens Front::operator()(const at::Tensor& samples, const nn::Layout& layout, const nn::Context& context) const {
  std::vector<at::Tensor> frames;
  std::vector<std::int64_t> lengths;
  std::int64_t begin = 0;
  // One sequence after the other: the first layers' frames are large, and no two sequences' need exist at a time.
  for (const std::int64_t length : layout.lengths()) {
    if (frames_of(length) < 1)
      throw Error({.what = "the sound is too short for the model",
                   .where = "input_values",
                   .expected = "at least " + std::to_string(least_samples()) + " samples",
                   .got = std::to_string(length)});
    at::Tensor x = samples.narrow(0, begin, length).unsqueeze(1);
    for (const auto& layer : layers_) x = (*layer)(x, context);
    lengths.push_back(x.size(0));
    frames.push_back(std::move(x));
    begin += length;
  }
  nn::Tokens tokens;
  tokens.rows = frames.size() == 1 ? frames.front() : at::cat(frames);
  if (!layout.is_uniform() || !layout.key_mask().defined()) {
    tokens.layout = layout.is_uniform() ? nn::Layout::uniform(layout.batch(), lengths.front()) : nn::Layout::packed(lengths);
    return tokens;
  }
  const at::Tensor real = layout.key_mask().sum(1).cpu();
  const at::Tensor mask = at::zeros({layout.batch(), lengths.front()}, at::kBool);
  for (std::int64_t b = 0; b < layout.batch(); ++b) {
    const std::int64_t length = real[b].item<std::int64_t>();
    if (frames_of(length) < 1)
      throw Error({.what = "the sound is too short for the model",
                   .where = "attention_mask",
                   .expected = "at least " + std::to_string(least_samples()) + " samples",
                   .got = std::to_string(length)});
    mask[b].narrow(0, 0, frames_of(length)).fill_(true);
  }
  tokens.layout = nn::Layout::uniform(layout.batch(), lengths.front(), mask.to(layout.key_mask().device()));
  return tokens;
}

std::int64_t Front::frames_of(std::int64_t samples) const {
  for (const auto& layer : layers_) samples = layer->frames_of(samples);
  return samples;
}

std::int64_t Front::least_samples() const {
  std::int64_t least = 1;
  for (auto layer = layers_.rbegin(); layer != layers_.rend(); ++layer) least = (*layer)->samples_for(least);
  return least;
}

std::int64_t Front::macs(std::int64_t samples) const {
  std::int64_t macs = 0;
  for (const auto& layer : layers_) {
    macs += layer->macs(samples);
    samples = layer->frames_of(samples);
  }
  return macs;
}

void Front::list(nn::SiteTable& table) {
  for (const auto& layer : layers_) layer->list(table);
}

}  // namespace mmtune::backbones
