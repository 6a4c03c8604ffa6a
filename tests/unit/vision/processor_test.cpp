#include "vision/processor.h"

#include <gtest/gtest.h>

#include "support/support.h"
#include "unit/vision/pictures.h"

namespace mmtune::test {
namespace {

using vision::Image;
using vision::ImageProcessor;

TEST(Processor, ComputesInTheReferencesArithmetic) {
  const auto processor = ImageProcessor::from_json(
      R"({"image_processor_type": "ViTImageProcessor", "do_resize": false, "rescale_factor": 0.00392156862745098,
          "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]})",
      "config");
  const Image image = noise(5, 4);
  const auto pixels = (*processor)(image);
  EXPECT_EQ(pixels.height, 4);
  EXPECT_EQ(pixels.width, 5);
  const float mean[] = {0.485F, 0.456F, 0.406F};
  const float std[] = {0.229F, 0.224F, 0.225F};
  for (std::size_t channel = 0; channel < 3; ++channel) {
    for (std::size_t i = 0; i < 20; ++i) {
      const auto rescaled = static_cast<float>(image.pixels[i * 3 + channel] * 0.00392156862745098);
      EXPECT_EQ(pixels.values[channel * 20 + i], (rescaled - mean[channel]) / std[channel]);
    }
  }
}

TEST(Processor, ResizesFirst) {
  const auto processor = ImageProcessor::from_json(
      R"({"image_processor_type": "ViTFeatureExtractor", "size": {"height": 6, "width": 9}, "resample": 3, "do_rescale": false,
          "do_normalize": false})",
      "config");
  const Image image = noise(31, 17);
  const Image small = resize(image, 9, 6, vision::Filter::bicubic);
  const auto pixels = (*processor)(image);
  ASSERT_EQ(pixels.values.size(), 3U * 6 * 9);
  for (std::size_t i = 0; i < 54; ++i) EXPECT_EQ(pixels.values[54 + i], static_cast<float>(small.pixels[3 * i + 1]));
}

TEST(Processor, DescriptionsTellEverySetting) {
  const auto describe = [](const std::string& fields) {
    return ImageProcessor::from_json(R"({"image_processor_type": "ViTImageProcessor")" + fields + "}", "config")->describe();
  };
  const std::string standard = describe("");
  for (const std::string fields :
       {R"("size": 225)", R"("resample": 3)", R"("do_resize": false)", R"("do_rescale": false)", R"("rescale_factor": 0.0039)",
        R"("do_normalize": false)", R"("image_mean": 0.51)", R"("image_std": 0.51)"}) {
    EXPECT_NE(describe(", " + fields), standard) << fields;
  }
  EXPECT_EQ(describe(R"(, "size": 224, "resample": 2, "image_mean": null)"), standard);
}

TEST(Processor, RefusesByName) {
  const auto message = [](const std::string& json) { return error_of([&] { ImageProcessor::from_json(json, "config"); }); };
  EXPECT_EQ(message(R"({"image_processor_type": "OddImageProcessor"})"),
            "config: unknown image_processor_type: expected ViTImageProcessor, ViTFeatureExtractor, CLIPImageProcessor, "
            "CLIPFeatureExtractor, BlipImageProcessor, OFAImageProcessor, ViltImageProcessor, ViltFeatureExtractor, got OddImageProcessor");
  EXPECT_NE(message(R"({"image_processor_type": "ViTImageProcessor", "size": {"longest_edge": 224}})").find("config: size: expected"),
            std::string::npos);
  EXPECT_NE(message("{}").find("image_processor_type is missing"), std::string::npos);
  EXPECT_NE(message("[1]").find("not a JSON object"), std::string::npos);
  EXPECT_NE(message("{").find("config"), std::string::npos);
}

TEST(Processor, FolderWithoutTheFileIsNamed) {
  const TempFolder folder;
  const std::string message = error_of([&] { ImageProcessor::open(folder.path()); });
  EXPECT_NE(message.find("preprocessor_config.json"), std::string::npos) << message;
}

}  // namespace
}  // namespace mmtune::test
