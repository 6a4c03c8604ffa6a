#pragma once
// Random views of pictures and random noise on views. Everything random comes from the generator that is handed in.

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "train/pretrain/recipe.h"

namespace mmtune::train {

/// A generator for draw number `counter` of a seed: the same numbers whatever was drawn before.
at::Generator seeded_generator(std::uint64_t seed, std::uint64_t counter);

/// Draws a view of each picture: a rectangle of random place, area and shape stretched to the full size, mirrored half the time where
/// `mirror` [B] bool allows it, with changed brightness, saturation and contrast. `pictures` [B, 3, S, S] uint8 → [B, 3, S, S] float32 in
/// 0 … 1.
at::Tensor draw_views(const at::Tensor& pictures, const at::Tensor& mirror, const PretrainViewsSection& section, at::Generator generator);

/// Mean over squares of pixels: [B, 3, S, S] float32 → [B, 3, size, size]; S is a multiple of `size`.
at::Tensor shrink(const at::Tensor& views, std::int64_t size);

/// A little shift, brightness, and a grey rectangle: [B, 3, S, S] float32 in 0 … 1 → the same shape.
at::Tensor add_noise(const at::Tensor& views, const PretrainNoiseSection& section, at::Generator generator);

}  // namespace mmtune::train
