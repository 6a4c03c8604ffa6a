#pragma once
// Image processors as described by preprocessor_config.json: from a decoded picture to the model's pixel_values.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "vision/image.h"

namespace mmtune::vision {

/// float32 [3, height, width], channel-major.
struct PixelValues {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::vector<float> values;
};

class ImageProcessor {
 public:
  /// Reads preprocessor_config.json of a model folder; an unknown image_processor_type or field combination is refused by name.
  static std::unique_ptr<ImageProcessor> open(const std::filesystem::path& folder);
  static std::unique_ptr<ImageProcessor> from_json(std::string_view json, const std::string& where);

  virtual ~ImageProcessor() = default;
  /// Exactly transformers' processor: resize (if do_resize), rescale, normalise, in its order and arithmetic.
  virtual PixelValues operator()(const Image& image) const = 0;
  /// Whether transformers' processor makes a batch of pictures of different sizes by padding them on the right and at the bottom with
  /// zeros, with a pixel_mask beside it.
  virtual bool pads() const { return false; }
  /// One line that tells every setting, for cache keys and run records.
  virtual std::string describe() const = 0;
};

}  // namespace mmtune::vision
