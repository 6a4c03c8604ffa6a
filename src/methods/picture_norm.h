#pragma once
// What a model's pictures are normalised by, for prompts that are added before.

#include <filesystem>

#include "experts/pixel_prompt.h"

namespace mmtune::methods {

/// image_mean and image_std of the folder's preprocessor_config.json; CLIP's where it has none of them, 0 and 1 where do_normalize is
/// false. Throws Error naming the file and field for a wrong type or a deviation that is not positive.
experts::ChannelNorm picture_norm_of(const std::filesystem::path& folder);

}  // namespace mmtune::methods
