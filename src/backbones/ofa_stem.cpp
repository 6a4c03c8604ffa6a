#include "backbones/ofa_stem.h"

#include <ATen/ATen.h>

namespace mmtune::backbones {

OfaStem::Norm OfaStem::norm(const nn::Weights& w, std::int64_t channels) {
  // The running statistics may be written to: copies, not the file's pages.
  return {w.tensor("weight", {channels}, nn::Init::ones), w.tensor("bias", {channels}, nn::Init::zeros),
          w.tensor("running_mean", {channels}, nn::Init::zeros).clone(), w.tensor("running_var", {channels}, nn::Init::ones).clone(),
          w.path()};
}

at::Tensor OfaStem::Norm::operator()(const at::Tensor& x, bool statistics) const {
  constexpr double momentum = 0.1, epsilon = 1e-5;
  return at::batch_norm(x, weight, bias, mean, variance, statistics, momentum, epsilon, false);
}

OfaStem::OfaStem(const nn::Weights& w, const OfaStemShape& shape)
    : first_(w.tensor("conv1.weight", {shape.first, 3, 7, 7})), first_norm_(norm(w / "bn1", shape.first)), name_(w.path()) {
  std::int64_t channels = shape.first;
  for (std::size_t stage = 0; stage < shape.planes.size(); ++stage) {
    const std::int64_t planes = shape.planes[stage], out = planes * OfaStemShape::expansion;
    for (std::int64_t number = 0; number < shape.blocks[stage]; ++number) {
      const nn::Weights scope = w / ("layer" + std::to_string(stage + 1)) / number;
      Block block;
      block.name = scope.path();
      block.stride = number == 0 && stage > 0 ? 2 : 1;
      const std::int64_t ins[] = {channels, planes, planes}, outs[] = {planes, planes, out}, sides[] = {1, 3, 1};
      for (std::size_t i = 0; i < 3; ++i) {
        const std::string at = std::to_string(i + 1);
        block.convolutions[i] = scope.tensor("conv" + at + ".weight", {outs[i], ins[i], sides[i], sides[i]});
        block.norms[i] = norm(scope / ("bn" + at), outs[i]);
      }
      if (block.stride != 1 || channels != out) {
        block.shortcut = scope.tensor("downsample.0.weight", {out, channels, 1, 1});
        block.shortcut_norm = norm(scope / "downsample" / 1, out);
      }
      blocks_.push_back(std::move(block));
      channels = out;
    }
  }
}

at::Tensor OfaStem::operator()(const at::Tensor& pictures, bool statistics) {
  at::Tensor x = at::relu(first_norm_(at::conv2d(pictures, first_, {}, 2, 3), statistics));
  x = at::max_pool2d(x, {3, 3}, {2, 2}, {1, 1});
  for (const Block& block : blocks_) {
    at::Tensor y = at::relu(block.norms[0](at::conv2d(x, block.convolutions[0]), statistics));
    y = at::relu(block.norms[1](at::conv2d(y, block.convolutions[1], {}, block.stride, 1), statistics));
    y = block.norms[2](at::conv2d(y, block.convolutions[2]), statistics);
    const at::Tensor past = block.shortcut.defined() ? block.shortcut_norm(at::conv2d(x, block.shortcut, {}, block.stride), statistics) : x;
    x = at::relu(y + past);
  }
  return x;
}

std::int64_t OfaStem::macs(std::int64_t patches) const {
  // A patch is 16 pixels a side: the first convolution works at half the picture's size, a stage at a quarter of it and less.
  std::int64_t places = patches * 16, total = patches * 64 * first_.numel();
  for (const Block& block : blocks_) {
    const std::int64_t before = places;
    places /= block.stride * block.stride;
    total += before * block.convolutions[0].numel() + places * (block.convolutions[1].numel() + block.convolutions[2].numel());
    if (block.shortcut.defined()) total += places * block.shortcut.numel();
  }
  return total;
}

void OfaStem::list(nn::SiteTable& table) {
  const auto add = [&](Norm& norm) {
    table.tensors.push_back({norm.name + ".weight", &norm.weight});
    table.tensors.push_back({norm.name + ".bias", &norm.bias});
    table.tensors.push_back({norm.name + ".running_mean", &norm.mean});
    table.tensors.push_back({norm.name + ".running_var", &norm.variance});
  };
  table.tensors.push_back({name_ + ".conv1.weight", &first_});
  add(first_norm_);
  for (Block& block : blocks_) {
    for (std::size_t i = 0; i < 3; ++i) {
      table.tensors.push_back({block.name + ".conv" + std::to_string(i + 1) + ".weight", &block.convolutions[i]});
      add(block.norms[i]);
    }
    if (!block.shortcut.defined()) continue;
    table.tensors.push_back({block.name + ".downsample.0.weight", &block.shortcut});
    add(block.shortcut_norm);
  }
}

}  // namespace mmtune::backbones
