// Every picture format, told by the content, and a resize of what was decoded: its kernels read beside the pixels they need.

#include <cstddef>
#include <cstdint>

#include "core/error.h"
#include "vision/image.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mmtune::vision;
  try {
    const Image image = decode_image({reinterpret_cast<const std::byte*>(data), size}, "input", {.max_pixels = 1 << 14});
    MMTUNE_ASSERT(image.width > 0 && image.height > 0 && image.width * image.height <= 1 << 14);
    MMTUNE_ASSERT(image.pixels.size() == static_cast<std::size_t>(image.width * image.height * 3));
    const Image small = resize(image, 5, 7, Filter::bicubic);
    MMTUNE_ASSERT(small.pixels.size() == 5 * 7 * 3);
  } catch (const mmtune::Error&) {
  }
  return 0;
}
