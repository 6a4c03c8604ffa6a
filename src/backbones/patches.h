#pragma once
// Pictures cut into patches: a convolution whose stride equals its kernel is one matrix product over them.

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace mmtune::backbones {

/// pixels [B, C, H, W] → [B, (H/h)·(W/w), C·h·w], patches row by row, each in the order of a convolution's kernel [C, h, w]. Pixels of an
/// incomplete last row or column of patches are left out.
at::Tensor patches_of(const at::Tensor& pixels, std::int64_t height, std::int64_t width);

}  // namespace mmtune::backbones
