#pragma once
// Checks of the tensors that `forward_named` is given: known names, dtypes and shapes.

#include <initializer_list>
#include <optional>
#include <string_view>

#include "backbones/backbone.h"

namespace mmtune::backbones {

/// Throws Error when `inputs` holds a name that is not in `known`.
void refuse_unknown_inputs(const TensorMap& inputs, std::initializer_list<std::string_view> known);
/// The tensor, or an undefined one. Throws Error when its rank differs.
at::Tensor optional_input(const TensorMap& inputs, const std::string& name, std::int64_t rank);
/// Text inputs [B, T] → rows with a mask. Throws Error on contradicting shapes, on ids outside [0, vocabulary), and on more than `longest`
/// tokens (nullopt: `positions`).
ModelInputs text_inputs(const TensorMap& inputs, std::int64_t vocabulary, std::int64_t types, std::int64_t positions, std::int64_t width,
                        std::optional<std::int64_t> longest = std::nullopt);
/// The tensor pixel_values, float32 [B, channels, height, width]. A height and width of 0: pictures of any size. Throws Error when it is
/// missing or another.
at::Tensor picture_input(const TensorMap& inputs, std::int64_t channels, std::int64_t height, std::int64_t width);

/// The tensors input_values, float32 [B, S], and attention_mask [B, S] → samples with a mask. Throws Error when the first is missing, and
/// on contradicting shapes.
ModelInputs sound_inputs(const TensorMap& inputs);

}  // namespace mmtune::backbones
