#pragma once
// One function a type of image processor, for ImageProcessor::from_json. A new type is one file and one line in processor.cpp.

#include <memory>
#include <string>

#include "core/json.h"
#include "vision/processor.h"

namespace mmtune::vision {

std::unique_ptr<ImageProcessor> make_vit_processor(const Json& config, const std::string& where);
std::unique_ptr<ImageProcessor> make_clip_processor(const Json& config, const std::string& where);
std::unique_ptr<ImageProcessor> make_blip_processor(const Json& config, const std::string& where);
std::unique_ptr<ImageProcessor> make_vilt_processor(const Json& config, const std::string& where);

}  // namespace mmtune::vision
