#include "backbones/patches.h"

#include <ATen/ATen.h>

namespace mmtune::backbones {

at::Tensor patches_of(const at::Tensor& pixels, std::int64_t height, std::int64_t width) {
  const std::int64_t batch = pixels.size(0), channels = pixels.size(1), down = pixels.size(2) / height, across = pixels.size(3) / width;
  return pixels.slice(2, 0, down * height)
      .slice(3, 0, across * width)
      .reshape({batch, channels, down, height, across, width})
      .permute({0, 2, 4, 1, 3, 5})
      .reshape({batch, down * across, channels * height * width});
}

}  // namespace mmtune::backbones
