#pragma once
// The image path of visual prompts (TVP, and EVP before it): a square of the picture in the middle of a black frame.

#include <cstdint>
#include <optional>
#include <vector>

#include "vision/image.h"

namespace mmtune::vision {

struct Size {
  std::int64_t width = 0;
  std::int64_t height = 0;
  bool operator==(const Size&) const = default;
};
struct Offset {
  std::int64_t left = 0;
  std::int64_t top = 0;
  bool operator==(const Offset&) const = default;
};

/// The size of a picture whose shorter side becomes `side`; the longer one is side · long / short, truncated. Throws Error where that would
/// be more pixels than Pillow accepts: a picture one pixel wide and very long.
Size shorter_side_size(Size size, std::int64_t side);

/// Where the middle square of `side` pixels begins; halves are rounded to even.
Offset centre_offset(Size size, std::int64_t side);

/// A square of `side` pixels: the picture is flipped if asked for, then resized by its shorter side (Pillow's bicubic on 8 bits), then
/// cropped at `offset` of the resized picture; nullopt: in the middle. In training, `offset` is uniform over what shorter_side_size()
/// leaves free, width − side and height − side included.
Image fit_square(const Image& image, std::int64_t side, bool flip = false, std::optional<Offset> offset = std::nullopt);

/// float32 [3, frame, frame], values of 0 to 1, channel-major: the square picture in the middle, zeros around it. Throws Error where the
/// picture is no square, is larger than the frame or leaves an odd number of pixels.
std::vector<float> framed(const Image& square, std::int64_t frame);

}  // namespace mmtune::vision
