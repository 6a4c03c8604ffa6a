#include "backbones/registry.h"

#include <ATen/ATen.h>

#include "core/error.h"

namespace mmtune::backbones {

namespace {

std::vector<Architecture> architectures() {
  return {bert_architecture(),        roberta_architecture(),   xlm_roberta_architecture(), vit_architecture(),
          swin_architecture(),        clip_architecture(),      clip_image_tower(),         clip_text_tower(),
          clip_vision_architecture(), clip_text_architecture(), wav2vec2_architecture(),    vilt_architecture(),
          meter_architecture(),       ofa_architecture(),       llama_architecture(),       opt_architecture(),
          t5_architecture(),          llava_architecture(),     blip2_architecture(),       instructblip_architecture(),
          minigpt4_architecture(),    vpgtrans_architecture(),  bliva_architecture()};
}

std::vector<Modality> towers_of_type(std::string_view type) {
  std::vector<Modality> towers;
  for (const Architecture& architecture : architectures())
    if (architecture.model_type == type && architecture.tower) towers.push_back(*architecture.tower);
  return towers;
}

std::string type_of(const Json& config, const std::string& where) {
  return config.is_object() ? Config(config, where).text("model_type", "") : "";
}

Architecture architecture_of(const Json& config, const std::string& where, std::optional<Modality> tower) {
  const std::string type = type_of(config, where);
  // A model of one tower is opened as it is, whatever it turns out to read.
  const bool several = !towers_of_type(type).empty();
  for (const Architecture& architecture : architectures())
    if (architecture.model_type == type && (!several || architecture.tower == tower)) return architecture;
  if (several)
    throw Error({.what = "the model has no tower that reads this", .where = where, .got = tower ? std::string(name_of(*tower)) : ""});
  std::string known;
  for (const std::string& name : known_architectures()) known += (known.empty() ? "" : ", ") + name;
  throw Error({.what = "model_type is not supported", .where = where, .expected = "one of " + known, .got = "\"" + printable(type) + "\""});
}

}  // namespace

std::vector<std::string> known_architectures() {
  std::vector<std::string> names;
  for (const Architecture& architecture : architectures())
    if (!architecture.tower) names.emplace_back(architecture.model_type);
  return names;
}

std::vector<Modality> towers_of(const io::Checkpoint& checkpoint) {
  return towers_of_type(type_of(checkpoint.config(), (checkpoint.folder() / "config.json").string()));
}

std::unique_ptr<Backbone> open_backbone(const io::Checkpoint& checkpoint, std::optional<Modality> tower, nn::Storage storage) {
  const std::string where = (checkpoint.folder() / "config.json").string();
  const Architecture architecture = architecture_of(checkpoint.config(), where, tower);
  nn::Weights weights = nn::Weights::of(checkpoint, architecture.prefixes, architecture.probe, storage);
  if (architecture.layout != nullptr) weights = weights.laid_out(architecture.layout(checkpoint));
  return architecture.make(Config(checkpoint.config(), where), weights);
}

std::unique_ptr<Backbone> fresh_backbone(const Json& config, std::uint64_t seed, std::optional<Modality> tower, nn::Storage storage) {
  const std::string where = "model configuration";
  return architecture_of(config, where, tower).make(Config(config, where), nn::Weights::fresh(seed, 0.02, storage));
}

}  // namespace mmtune::backbones
