// The processors that resize, crop, rescale and normalise: ViT's (Swin's too), CLIP's and BLIP's, which differ in their defaults alone, and
// ViLT's, which keeps the picture's proportions up to whole patches.
// transformers' PIL backend is the reference.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <optional>
#include <utility>

#include "core/error.h"
#include "vision/processor_fields.h"
#include "vision/processors.h"

namespace mmtune::vision {

namespace {

struct Settings {
  std::string type;
  std::optional<TargetSize> size;  // none: not resized
  std::int64_t divisor = 0;        // over 0: both sides are brought down to a multiple, and the longer one is bounded (ViLT)
  Filter filter = Filter::bilinear;
  std::optional<TargetSize> crop;  // none: not cropped
  bool pads = false;
  std::optional<double> rescale_factor;
  std::optional<std::array<double, 3>> mean;  // with std; none: not normalised
  std::array<double, 3> std = {};
};

/// Resized pictures may not have more pixels than this; with proportions kept, a very thin one would.
constexpr std::int64_t max_resized_pixels = DecodeLimits{}.max_pixels;

/// Half as much as the picture lacks, or has too much, rounded as transformers does.
struct Margin {
  std::int64_t before_source;  // pixels of the source that are left out in front
  std::int64_t before_target;  // zeros in front
  std::int64_t count;          // pixels that are copied

  Margin(std::int64_t source, std::int64_t target) {
    if (source >= target) {
      before_source = (source - target) / 2;
      before_target = 0;
      count = target;
    } else {
      before_source = 0;
      before_target = (target - source + 1) / 2;
      count = source;
    }
  }
};

/// The middle of the picture, with zeros around it where it is smaller.
Image centre(const Image& image, std::int64_t height, std::int64_t width) {
  const Margin y(image.height, height), x(image.width, width);
  Image out{width, height, std::vector<std::uint8_t>(static_cast<std::size_t>(height * width * 3), 0)};
  for (std::int64_t row = 0; row < y.count; ++row) {
    const auto from = image.pixels.begin() + ((y.before_source + row) * image.width + x.before_source) * 3;
    std::copy(from, from + x.count * 3, out.pixels.begin() + ((y.before_target + row) * width + x.before_target) * 3);
  }
  return out;
}

class StandardProcessor final : public ImageProcessor {
 public:
  explicit StandardProcessor(Settings settings) : settings_(std::move(settings)) {
    // A pixel has 256 values, so that rescaling and normalising are looked up. The arithmetic is the reference's: the product in double,
    // rounded to float, then subtraction and division in float.
    for (std::size_t channel = 0; channel < 3; ++channel) {
      for (std::size_t value = 0; value < 256; ++value) {
        auto result = static_cast<float>(value);
        if (settings_.rescale_factor) result = static_cast<float>(static_cast<double>(value) * *settings_.rescale_factor);
        if (settings_.mean) result = (result - static_cast<float>((*settings_.mean)[channel])) / static_cast<float>(settings_.std[channel]);
        table_[channel][value] = result;
      }
    }
  }

  PixelValues operator()(const Image& image) const override {
    if (!settings_.size) return look_up_cropped(image);
    const TargetSize size = target_of(image);
    return look_up_cropped(resize(image, size.width, size.height, settings_.filter));
  }

  bool pads() const override { return settings_.pads; }

  std::string describe() const override {
    std::string line = settings_.type;
    if (settings_.divisor > 0) line += " size_divisor=" + std::to_string(settings_.divisor);
    if (settings_.size) line += " size=" + shape(*settings_.size) + " resample=" + std::string(filter_name(settings_.filter));
    if (settings_.crop) line += " crop_size=" + shape(*settings_.crop);
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

  static std::string shape(const TargetSize& size) {
    if (size.shortest_edge > 0) return "shortest_edge:" + std::to_string(size.shortest_edge);
    return std::to_string(size.height) + "x" + std::to_string(size.width);
  }

  TargetSize target_of(const Image& image) const {
    const TargetSize& size = *settings_.size;
    if (size.shortest_edge == 0) return size;
    if (settings_.divisor > 0) return whole_patches(image);
    const std::int64_t shorter = std::min(image.height, image.width), longer = std::max(image.height, image.width);
    const auto other = static_cast<std::int64_t>(static_cast<double>(size.shortest_edge * longer) / static_cast<double>(shorter));
    if (other > max_resized_pixels / size.shortest_edge)
      throw Error({.what = "the picture is too thin to be resized with its proportions",
                   .where = settings_.type,
                   .got = std::to_string(image.width) + " x " + std::to_string(image.height)});
    return image.width <= image.height ? TargetSize{.height = other, .width = size.shortest_edge}
                                       : TargetSize{.height = size.shortest_edge, .width = other};
  }

  /// The shorter edge as asked for, unless the longer one would exceed 1333/800 of it; then down to multiples of the divisor.
  TargetSize whole_patches(const Image& image) const {
    const auto shortest = static_cast<double>(settings_.size->shortest_edge);
    const auto longest = static_cast<double>(static_cast<std::int64_t>(1333.0 / 800.0 * shortest));
    const auto height = static_cast<double>(image.height), width = static_cast<double>(image.width);
    // Products in the reference's order, which decides how halves are rounded.
    double scale = shortest / std::min(height, width);
    double new_height = height < width ? shortest : scale * height, new_width = height < width ? scale * width : shortest;
    if (std::max(new_height, new_width) > longest) {
      scale = longest / std::max(new_height, new_width);
      new_height = scale * new_height;
      new_width = scale * new_width;
    }
    const auto down = [this](double length) {
      return static_cast<std::int64_t>(std::trunc(length + 0.5)) / settings_.divisor * settings_.divisor;
    };
    const TargetSize target{.height = down(new_height), .width = down(new_width)};
    if (target.height < 1 || target.width < 1)
      throw Error({.what = "the picture is too thin to be resized with its proportions",
                   .where = settings_.type,
                   .expected = "both sides at least " + std::to_string(settings_.divisor) + " pixels once resized",
                   .got = std::to_string(image.width) + " x " + std::to_string(image.height)});
    return target;
  }

  PixelValues look_up_cropped(const Image& image) const {
    if (!settings_.crop || (settings_.crop->height == image.height && settings_.crop->width == image.width)) return look_up(image);
    return look_up(centre(image, settings_.crop->height, settings_.crop->width));
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

namespace {

/// What absent fields mean, by type.
struct Defaults {
  std::string type;
  TargetSize size;
  Number number;  // what a bare number for `size` means
  Filter filter;
  bool crops;
  std::optional<TargetSize> crop_size;
  std::array<double, 3> mean, std;
  bool pads = false;  // makes batches of pictures of different sizes
  std::int64_t divisor = 0;
};

std::unique_ptr<ImageProcessor> make_standard(const Json& config, const std::string& where, const Defaults& defaults) {
  const ProcessorFields fields(config, where);
  Settings settings{.type = defaults.type, .pads = fields.flag("do_pad", defaults.pads)};
  if (settings.pads && !defaults.pads) throw Error({.what = "do_pad is not supported for " + defaults.type, .where = where});
  if (fields.flag("do_resize", true)) {
    settings.size = fields.size("size", defaults.size, defaults.number);
    settings.filter = fields.filter("resample", defaults.filter);
    if (defaults.divisor > 0) {
      constexpr double largest = 4096;
      const double divisor = fields.number("size_divisor", static_cast<double>(defaults.divisor));
      if (divisor < 0 || divisor > largest || divisor != std::floor(divisor))
        throw Error({.what = "size_divisor is no divisor", .where = where, .expected = "an integer of at most 4096"});
      settings.divisor = divisor == 0 ? defaults.divisor : static_cast<std::int64_t>(divisor);
      if (settings.size->shortest_edge == 0) throw Error({.what = "size has no shortest_edge", .where = where});
    }
  }
  if (defaults.divisor == 0 && fields.flag("do_center_crop", defaults.crops)) {  // ViLT's processor never crops
    settings.crop = fields.size("crop_size", defaults.crop_size.value_or(TargetSize{}));
    if (settings.crop->height == 0) throw Error({.what = "do_center_crop needs a crop_size of fixed height and width", .where = where});
  }
  if (fields.flag("do_rescale", true)) settings.rescale_factor = fields.number("rescale_factor", 1.0 / 255.0);
  if (fields.flag("do_normalize", true)) {
    settings.mean = fields.channels("image_mean", defaults.mean);
    settings.std = fields.channels("image_std", defaults.std);
    for (const double value : settings.std) {
      if (static_cast<float>(value) == 0.0F) throw Error({.what = "image_std has a zero", .where = where});
    }
  }
  return std::make_unique<StandardProcessor>(std::move(settings));
}

}  // namespace

std::unique_ptr<ImageProcessor> make_vit_processor(const Json& config, const std::string& where) {
  return make_standard(config, where,
                       {.type = "ViTImageProcessor",
                        .size = {.height = 224, .width = 224},
                        .number = Number::square,
                        .filter = Filter::bilinear,
                        .crops = false,
                        .crop_size = std::nullopt,
                        .mean = {0.5, 0.5, 0.5},
                        .std = {0.5, 0.5, 0.5}});
}

std::unique_ptr<ImageProcessor> make_clip_processor(const Json& config, const std::string& where) {
  return make_standard(config, where,
                       {.type = "CLIPImageProcessor",
                        .size = {.shortest_edge = 224},
                        .number = Number::shortest_edge,
                        .filter = Filter::bicubic,
                        .crops = true,
                        .crop_size = TargetSize{.height = 224, .width = 224},
                        .mean = {0.48145466, 0.4578275, 0.40821073},
                        .std = {0.26862954, 0.26130258, 0.27577711}});
}

std::unique_ptr<ImageProcessor> make_blip_processor(const Json& config, const std::string& where) {
  return make_standard(config, where,
                       {.type = "BlipImageProcessor",
                        .size = {.height = 384, .width = 384},
                        .number = Number::square,
                        .filter = Filter::bicubic,
                        .crops = false,
                        .crop_size = std::nullopt,
                        .mean = {0.48145466, 0.4578275, 0.40821073},
                        .std = {0.26862954, 0.26130258, 0.27577711}});
}

std::unique_ptr<ImageProcessor> make_vilt_processor(const Json& config, const std::string& where) {
  return make_standard(config, where,
                       {.type = "ViltImageProcessor",
                        .size = {.shortest_edge = 384},
                        .number = Number::shortest_edge,
                        .filter = Filter::bicubic,
                        .crops = false,
                        .crop_size = std::nullopt,
                        .mean = {0.5, 0.5, 0.5},
                        .std = {0.5, 0.5, 0.5},
                        .pads = true,
                        .divisor = 32});
}

}  // namespace mmtune::vision
