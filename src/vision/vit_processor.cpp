// ViT's processor: resize to a fixed size, rescale, normalise; transformers' PIL backend is the reference.

#include <array>
#include <cmath>
#include <cstdio>
#include <optional>

#include "core/error.h"
#include "vision/processor_fields.h"
#include "vision/processors.h"

namespace mmtune::vision {

namespace {

struct Settings {
  std::optional<Size> size;  // none: not resized
  Filter filter = Filter::bilinear;
  std::optional<double> rescale_factor;
  std::optional<std::array<double, 3>> mean;  // with std; none: not normalised
  std::array<double, 3> std = {};
};

class VitProcessor final : public ImageProcessor {
 public:
  explicit VitProcessor(const Settings& settings) : settings_(settings) {
    // A pixel has 256 values, so that rescaling and normalising are looked up. The arithmetic is the reference's: the product in double,
    // rounded to float, then subtraction and division in float.
    for (std::size_t channel = 0; channel < 3; ++channel) {
      for (std::size_t value = 0; value < 256; ++value) {
        auto result = static_cast<float>(value);
        if (settings.rescale_factor) result = static_cast<float>(static_cast<double>(value) * *settings.rescale_factor);
        if (settings.mean) result = (result - static_cast<float>((*settings.mean)[channel])) / static_cast<float>(settings.std[channel]);
        table_[channel][value] = result;
      }
    }
  }

  PixelValues operator()(const Image& image) const override {
    if (!settings_.size) return look_up(image);
    return look_up(resize(image, settings_.size->width, settings_.size->height, settings_.filter));
  }

  std::string describe() const override {
    std::string line = "ViTImageProcessor";
    if (settings_.size) {
      line += " size=" + std::to_string(settings_.size->height) + "x" + std::to_string(settings_.size->width);
      line += " resample=" + std::string(filter_name(settings_.filter));
    }
    if (settings_.rescale_factor) line += " rescale_factor=" + number(*settings_.rescale_factor);
    if (settings_.mean) {
      line += " image_mean=" + numbers(*settings_.mean);
      line += " image_std=" + numbers(settings_.std);
    }
    return line;
  }

 private:
  static std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.17g", value);
    return text;
  }
  static std::string numbers(const std::array<double, 3>& values) {
    return number(values[0]) + "," + number(values[1]) + "," + number(values[2]);
  }

  PixelValues look_up(const Image& image) const {
    const auto plane = static_cast<std::size_t>(image.width * image.height);
    PixelValues out{image.height, image.width, std::vector<float>(plane * 3)};
    float* const red = out.values.data();
    float* const green = red + plane;
    float* const blue = green + plane;
    const std::uint8_t* pixel = image.pixels.data();
    for (std::size_t i = 0; i < plane; ++i, pixel += 3) {
      red[i] = table_[0][pixel[0]];
      green[i] = table_[1][pixel[1]];
      blue[i] = table_[2][pixel[2]];
    }
    return out;
  }

  Settings settings_;
  std::array<std::array<float, 256>, 3> table_{};
};

}  // namespace

std::unique_ptr<ImageProcessor> make_vit_processor(const Json& config, const std::string& where) {
  const ProcessorFields fields(config, where);
  for (const char* key : {"do_center_crop", "do_pad"}) {
    if (fields.flag(key, false)) throw Error({.what = std::string(key) + " is not supported for ViTImageProcessor", .where = where});
  }
  Settings settings;
  if (fields.flag("do_resize", true)) {
    settings.size = fields.size("size", {224, 224});
    settings.filter = fields.filter("resample", Filter::bilinear);
  }
  if (fields.flag("do_rescale", true)) settings.rescale_factor = fields.number("rescale_factor", 1.0 / 255.0);
  if (fields.flag("do_normalize", true)) {
    settings.mean = fields.channels("image_mean", {0.5, 0.5, 0.5});
    settings.std = fields.channels("image_std", {0.5, 0.5, 0.5});
    for (const double value : settings.std) {
      if (static_cast<float>(value) == 0.0F) throw Error({.what = "image_std has a zero", .where = where});
    }
  }
  return std::make_unique<VitProcessor>(settings);
}

}  // namespace mmtune::vision
