#pragma once
// What TVP's golden cases share: pictures, limits, and the tiny CLIP that their captions are compared by.

#include <memory>
#include <string>

#include "experts/pixel_prompt.h"
#include "golden.h"
#include "methods/tvp_losses.h"

namespace mmtune::golden {

/// Limits that go with the cases (their floors against float64: 1.1e-5 for T, 1.5e-6 for other losses, 7e-6 for gradients).
inline constexpr Case::Limit tvp_forward{.absolute = 2e-5, .relative = 2e-5};
inline constexpr Case::Limit tvp_similarity{.absolute = 1e-4, .relative = 2e-5};
inline constexpr Case::Limit tvp_gradient{.relative = 2e-4, .gradient = true};
inline constexpr Case::Limit tvp_delta{.absolute = 1e-4};

/// Pictures [B, 3, s, s] uint8 as numbers in [0, 1].
at::Tensor picture_values(const at::Tensor& bytes);
/// A border prompt that holds `delta`, s being the pictures' side.
experts::PixelPrompt border_prompt(const at::Tensor& delta, std::int64_t width, std::int64_t image);
void fill_prompt(const experts::PixelPrompt& prompt, const std::string& name, const at::Tensor& values);
/// The case's CLIP (its JSON's config.clip), filled with the tensors below `prefix`; the caption rows [B, E] of `ids` [B, T].
struct GoldenClip {
  std::unique_ptr<methods::CaptionModel> model;
  at::Tensor captions;
};
GoldenClip golden_clip(Case& golden, const std::string& prefix, const at::Tensor& ids);

}  // namespace mmtune::golden
