#pragma once
// Pictures for reports.

#include <cstddef>
#include <vector>

#include "vision/image.h"

namespace mmtune::vision {

/// A baseline JPEG of the picture; `quality` from 1 to 100. Throws Error on sides above 65,500 pixels, the format's limit.
std::vector<std::byte> encode_jpeg(const Image& image, int quality);

/// The largest size of the picture's shape that fits into `side` x `side`; a smaller picture stays as it is.
Image thumbnail(const Image& image, std::int64_t side);

}  // namespace mmtune::vision
