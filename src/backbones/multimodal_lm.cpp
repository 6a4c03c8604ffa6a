#include "backbones/multimodal_lm.h"

#include <ATen/ATen.h>

#include "core/error.h"
#include "io/checkpoint.h"

namespace mmtune::backbones {

std::string_view name_of(MultimodalFamily family) {
  switch (family) {
    case MultimodalFamily::llava:
      return "llava";
    case MultimodalFamily::blip2:
      return "blip-2";
    case MultimodalFamily::instructblip:
      return "instructblip";
    case MultimodalFamily::minigpt4:
      return "minigpt4";
    case MultimodalFamily::vpgtrans:
      return "vpgtrans";
    case MultimodalFamily::bliva:
      return "bliva";
  }
  MMTUNE_ASSERT(false);
  return "";
}

at::Tensor TaskLoss::mean() const {
  MMTUNE_ASSERT(tokens > 0);
  return sum / static_cast<double>(tokens);
}

namespace {

std::array<double, 3> channels(const Json& json, const char* key, const std::array<double, 3>& fallback, const std::string& where) {
  if (!json.contains(key)) return fallback;
  const Json& list = json[key];
  const bool three = list.is_array() && list.size() == 3 && list[0].is_number() && list[1].is_number() && list[2].is_number();
  if (!three) throw Error({.what = std::string("\"") + key + "\" is wrong", .where = where, .expected = "three numbers"});
  return {list[0].get<double>(), list[1].get<double>(), list[2].get<double>()};
}

}  // namespace

void MultimodalLm::read_norm(const std::filesystem::path& folder) {
  std::error_code ignored;
  // transformers 5 puts the settings of all parts of a processor into one file.
  for (const char* name : {"preprocessor_config.json", "processor_config.json"}) {
    const std::filesystem::path path = folder / name;
    if (!std::filesystem::exists(path, ignored)) continue;
    const Json whole = read_json_file(path);
    if (!whole.is_object()) throw Error({.what = "not a JSON object", .where = path.string()});
    const bool inside = whole.contains("image_processor") && whole["image_processor"].is_object();
    const Json& settings = inside ? whole["image_processor"] : whole;
    multimodal_.mean = channels(settings, "image_mean", multimodal_.mean, path.string());
    multimodal_.std = channels(settings, "image_std", multimodal_.std, path.string());
    return;
  }
}

std::unique_ptr<MultimodalLm> open_multimodal_lm(const std::filesystem::path& folder, nn::Storage storage) {
  std::unique_ptr<Backbone> opened = open_backbone(io::Checkpoint::open(folder), std::nullopt, storage);
  auto* const model = dynamic_cast<MultimodalLm*>(opened.get());
  if (model == nullptr)
    throw Error({.what = "no multimodal language model",
                 .where = folder.string(),
                 .expected = "llava, blip-2, instructblip, minigpt4, vpgtrans or bliva",
                 .got = opened->info().architecture});
  static_cast<void>(opened.release());
  std::unique_ptr<MultimodalLm> result(model);
  result->read_norm(folder);
  return result;
}

}  // namespace mmtune::backbones
