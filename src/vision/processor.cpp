#include "vision/processor.h"

#include <array>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "core/json.h"
#include "vision/processors.h"

namespace mmtune::vision {

namespace {

struct Registration {
  std::string_view type;  // without the suffixes Fast and Pil, which name backends of transformers
  std::unique_ptr<ImageProcessor> (*make)(const Json&, const std::string&);
};

/// OFA's pictures, which its folders say nothing about: 480 pixels a side whatever their proportions, by bicubic filtering, from -1 to 1.
std::unique_ptr<ImageProcessor> make_ofa_processor(const Json& config, const std::string& where) {
  const std::array<double, 3> half = {0.5, 0.5, 0.5};
  Json own = {{"size", {{"height", 480}, {"width", 480}}}, {"resample", 3}, {"image_mean", half}, {"image_std", half}};
  if (config.contains("patch_image_size")) own["size"] = {{"height", config["patch_image_size"]}, {"width", config["patch_image_size"]}};
  own.update(config);
  own.erase("patch_image_size");
  return make_vit_processor(own, where);
}

constexpr std::array registrations = {
    Registration{"ViTImageProcessor", make_vit_processor},   Registration{"ViTFeatureExtractor", make_vit_processor},
    Registration{"CLIPImageProcessor", make_clip_processor}, Registration{"CLIPFeatureExtractor", make_clip_processor},
    Registration{"BlipImageProcessor", make_blip_processor}, Registration{"OFAImageProcessor", make_ofa_processor},
    Registration{"ViltImageProcessor", make_vilt_processor}, Registration{"ViltFeatureExtractor", make_vilt_processor},
};

// Processors that folders without a type are given, by config.json's model_type.
constexpr std::array<std::pair<std::string_view, std::string_view>, 9> defaults = {{{"vit", "ViTImageProcessor"},
                                                                                    {"swin", "ViTImageProcessor"},
                                                                                    {"clip", "CLIPImageProcessor"},
                                                                                    {"clip_vision_model", "CLIPImageProcessor"},
                                                                                    {"llava", "CLIPImageProcessor"},
                                                                                    {"blip-2", "BlipImageProcessor"},
                                                                                    {"instructblip", "BlipImageProcessor"},
                                                                                    {"ofa", "OFAImageProcessor"},
                                                                                    {"vilt", "ViltImageProcessor"}}};

std::string known_types() {
  std::string list;
  for (const Registration& entry : registrations) list += (list.empty() ? "" : ", ") + std::string(entry.type);
  return list;
}

std::string type_of(const Json& config, const std::string& where) {
  for (const char* key : {"image_processor_type", "feature_extractor_type"}) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null()) continue;
    if (!found->is_string()) throw Error({.what = std::string(key) + " is not a string", .where = where});
    return found->get<std::string>();
  }
  return {};
}

std::unique_ptr<ImageProcessor> make(const Json& config, const std::string& type, const std::string& where) {
  std::string_view base = type;
  for (const std::string_view suffix : {"Fast", "Pil"}) {
    if (base.ends_with(suffix)) {
      base.remove_suffix(suffix.size());
      break;
    }
  }
  for (const Registration& entry : registrations) {
    if (entry.type == base) return entry.make(config, where);
  }
  throw Error({.what = "unknown image_processor_type", .where = where, .expected = known_types(), .got = printable(type)});
}

void require_object(const Json& config, const std::string& where) {
  if (!config.is_object()) throw Error({.what = "not a JSON object", .where = where});
}

}  // namespace

std::unique_ptr<ImageProcessor> ImageProcessor::from_json(std::string_view json, const std::string& where) {
  const Json config = parse_json(json, where);
  require_object(config, where);
  const std::string type = type_of(config, where);
  if (type.empty()) throw Error({.what = "image_processor_type is missing", .where = where, .expected = known_types()});
  return make(config, type, where);
}

std::unique_ptr<ImageProcessor> ImageProcessor::open(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "preprocessor_config.json";
  const std::string where = file.string();
  std::error_code absent;
  if (!std::filesystem::exists(file, absent) && std::filesystem::exists(folder / "config.json", absent)) {
    const Json model = read_json_file(folder / "config.json", std::size_t{16} << 20);
    if (model.is_object() && model.value("model_type", Json()) == "ofa") return make_ofa_processor(Json::object(), where);
  }
  const Json config = read_json_file(file, std::size_t{16} << 20);
  require_object(config, where);
  std::string type = type_of(config, where);
  const std::filesystem::path model_file = folder / "config.json";
  std::error_code ignored;
  if (type.empty() && std::filesystem::exists(model_file, ignored)) {
    // Old checkpoints leave the type to the architecture.
    const Json model = read_json_file(model_file, std::size_t{16} << 20);
    const std::string model_type = model.is_object() && model.contains("model_type") && model["model_type"].is_string()
                                       ? model["model_type"].get<std::string>()
                                       : std::string();
    for (const auto& [name, processor] : defaults) {
      if (model_type == name) type = processor;
    }
    if (type.empty()) {
      throw Error({.what = "image_processor_type is missing, and none is known for model_type \"" + printable(model_type) + "\"",
                   .where = where,
                   .expected = known_types()});
    }
  }
  if (type.empty()) throw Error({.what = "image_processor_type is missing", .where = where, .expected = known_types()});
  return make(config, type, where);
}

}  // namespace mmtune::vision
