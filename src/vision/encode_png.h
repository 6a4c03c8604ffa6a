#pragma once
// Pictures without loss.

#include <cstddef>
#include <vector>

#include "vision/image.h"

namespace mmtune::vision {

/// The picture as a PNG of 8-bit RGB. Throws Error where libpng refuses.
std::vector<std::byte> encode_png(const Image& image);

}  // namespace mmtune::vision
