#pragma once
// A visual prompt as people look at it: pictures, numbers of its channels, and its spectrum.

#include <array>
#include <cstdint>
#include <vector>

#include "experts/pixel_prompt.h"
#include "report/prompt_page.h"
#include "vision/image.h"

namespace mmtune::methods {

/// [3, H, W] numbers as 8 bits, clipped to [0, 1]; how many were outside (beyond rounding) is added to `clipped`.
vision::Image to_picture(const at::Tensor& pixels, std::int64_t* clipped = nullptr);

/// Views, statistics over what the prompt trains, and the spectrum of the whole frame. VP's forms are shown in pixel units of CLIP's
/// normalisation, the random patch in the upper left corner.
report::PromptView view_of(const experts::PixelPrompt& prompt);

}  // namespace mmtune::methods
