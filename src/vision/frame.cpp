#include "vision/frame.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace mmtune::vision {

namespace {

std::string written(Size size) {
  return std::to_string(size.width) + " x " + std::to_string(size.height);
}

/// Half of it; of two equally near integers the even one.
std::int64_t half_to_even(std::int64_t count) {
  const std::int64_t below = count / 2;
  return count % 2 == 0 || below % 2 == 0 ? below : below + 1;
}

}  // namespace

Size shorter_side_size(Size size, std::int64_t side) {
  MMTUNE_ASSERT(size.width > 0 && size.height > 0 && side > 0);
  const std::int64_t shorter = std::min(size.width, size.height);
  const std::int64_t longer = std::max(size.width, size.height);
  const std::int64_t most = DecodeLimits{}.max_pixels / side;
  const std::int64_t grown = longer > DecodeLimits{}.max_pixels ? most + 1 : side * longer / shorter;
  if (grown > most) {
    throw Error({.what = "the picture is too long for its width",
                 .expected = "at most " + std::to_string(most) + " pixels when the shorter side has " + std::to_string(side),
                 .got = written(size)});
  }
  return size.width <= size.height ? Size{side, grown} : Size{grown, side};
}

Offset centre_offset(Size size, std::int64_t side) {
  MMTUNE_ASSERT(side <= size.width && side <= size.height);
  return {half_to_even(size.width - side), half_to_even(size.height - side)};
}

Image fit_square(const Image& image, std::int64_t side, bool flip, std::optional<Offset> offset) {
  const Size size = shorter_side_size({image.width, image.height}, side);
  const Image resized = resize(flip ? flip_horizontal(image) : image, size.width, size.height, Filter::bicubic);
  const Offset at = offset.value_or(centre_offset(size, side));
  MMTUNE_ASSERT(at.left >= 0 && at.top >= 0 && at.left + side <= size.width && at.top + side <= size.height);
  return crop(resized, at.left, at.top, side, side);
}

std::vector<float> framed(const Image& square, std::int64_t frame) {
  const std::int64_t side = square.width;
  if (side != square.height || side > frame || (frame - side) % 2 != 0) {
    throw Error({.what = "the picture cannot stand in the middle of a frame of " + std::to_string(frame),
                 .expected = "a square that is smaller by an even number of pixels",
                 .got = written({square.width, square.height})});
  }
  const std::int64_t border = (frame - side) / 2;
  std::vector<float> values(static_cast<std::size_t>(3 * frame * frame), 0.0F);
  for (std::int64_t y = 0; y < side; ++y) {
    const std::uint8_t* row = square.pixels.data() + y * side * 3;
    for (std::int64_t channel = 0; channel < 3; ++channel) {
      float* target = values.data() + (channel * frame + y + border) * frame + border;
      for (std::int64_t x = 0; x < side; ++x) target[x] = static_cast<float>(row[x * 3 + channel]) / 255.0F;
    }
  }
  return values;
}

}  // namespace mmtune::vision
