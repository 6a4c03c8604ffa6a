#pragma once
// The tensor names of METER's released checkpoints. Its text encoder and its co-attention layers are named as in transformers; the image
// encoders are CLIP's as OpenAI, or Swin's as timm named it.

#include <string>

#include "nn/weights.h"

namespace mmtune::backbones {

enum class MeterImageEncoder { clip, swin };
std::string_view name_of(MeterImageEncoder encoder);

/// Where a released checkpoint keeps the tensor that we call `name`: below "vit_model" by transformers' names for the encoder, everywhere
/// else its own. Position tables come with what fits them to another picture size.
nn::Stored original_meter_place(const std::string& name, MeterImageEncoder encoder);

/// CLIP's table [1 + side², D] for a grid of another side: bicubic over the grid, the class token's row kept. Throws Error where either
/// grid is no square: such a table cannot be interpolated.
at::Tensor resized_grid_table(const at::Tensor& table, at::IntArrayRef shape, const std::string& name);
/// Swin's table [(2w−1)², H] of a window of another side: bicubic over the offsets. Throws Error where either is no square.
at::Tensor resized_offset_table(const at::Tensor& table, at::IntArrayRef shape, const std::string& name);

}  // namespace mmtune::backbones
