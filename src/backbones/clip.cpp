// CLIP (model_type "clip", "clip_vision_model" and "clip_text_model"; Radford et al. 2021, arXiv 2103.00020): the registrations, and the
// whole model, which compares pictures and texts.

#include <ATen/ATen.h>

#include "backbones/clip_towers.h"
#include "backbones/registry.h"
#include "core/error.h"

namespace mmtune::backbones {

namespace {

/// The configuration of a tower. Early checkpoints have it twice, and what stands under the longer name counts, as in transformers.
Config tower_config(const Config& config, const std::string& key) {
  return config.section(config.has(key + "_dict") ? key + "_dict" : key);
}

/// Both towers and the scale of their logits. Its sites are those of both.
class Clip final : public Backbone {
 public:
  Clip(const Config& config, const nn::Weights& root)
      : image_(tower_config(config, "vision_config"), root, root / "vision_model", config.integer("projection_dim", 512)),
        text_(tower_config(config, "text_config"), root, root / "text_model", config.integer("projection_dim", 512)),
        logit_scale_(root.tensor("logit_scale", {}, nn::Init::ones)) {
    report_ = root.finish();
    info_ = image_.info();
    info_.architecture = "clip";
    for (nn::SiteTable* const part : {&image_.sites(), &text_.sites()}) {
      const auto append = [](auto& all, const auto& more) { all.insert(all.end(), more.begin(), more.end()); };
      append(sites_.weights, part->weights);
      append(sites_.sublayers, part->sublayers);
      append(sites_.keys_values, part->keys_values);
      append(sites_.sequences, part->sequences);
      append(sites_.inputs, part->inputs);
      append(sites_.tensors, part->tensors);
    }
    sites_.tensors.push_back({"logit_scale", &logit_scale_});
  }

  ModelOutputs forward(const ModelInputs& inputs, const nn::Context& context) override {
    return inputs.pixel_values.defined() ? image_.forward(inputs, context) : text_.forward(inputs, context);
  }

  /// Pictures and texts → image_embeds and text_embeds (normalised), logits_per_image [pictures, texts] and logits_per_text; one of the two
  /// alone → what its tower gives.
  TensorMap forward_named(const TensorMap& inputs, const nn::Context& context) override {
    TensorMap pictures, texts = inputs;
    if (auto pixels = texts.extract("pixel_values")) pictures.insert(std::move(pixels));
    if (pictures.empty()) return text_.forward_named(texts, context);
    if (texts.empty()) return image_.forward_named(pictures, context);
    const auto normalised = [](const at::Tensor& x) { return x / x.norm(2, {-1}, true); };
    const TensorMap text = text_.forward_named(texts, context), image = image_.forward_named(pictures, context);
    if (!text.contains("text_embeds") || !image.contains("image_embeds"))
      throw Error({.what = "pictures and texts cannot be compared",
                   .where = "inputs",
                   .expected = "a checkpoint with both projections, and input_ids"});
    const at::Tensor text_embeds = normalised(text.at("text_embeds")), image_embeds = normalised(image.at("image_embeds"));
    const at::Tensor logits = at::matmul(text_embeds, image_embeds.t()) * logit_scale_.exp();
    return {{"text_embeds", text_embeds}, {"image_embeds", image_embeds}, {"logits_per_text", logits}, {"logits_per_image", logits.t()}};
  }

  std::int64_t macs(std::int64_t tokens, bool read_first) const override {
    return image_.macs(tokens, read_first) + text_.macs(text_.info().max_length, read_first);
  }

 private:
  ClipImageTower image_;
  ClipTextTower text_;
  at::Tensor logit_scale_;
};

template <class Tower>
std::unique_ptr<Backbone> finished(const Config& config, const nn::Weights& root, const nn::Weights& scope, std::int64_t projected) {
  auto tower = std::make_unique<Tower>(config, root, scope, projected);
  tower->finish(root);
  return tower;
}

/// Where the model that holds both keeps a tower: in its configuration, and among its tensors.
struct TowerNames {
  const char* section;
  const char* scope;
};
constexpr TowerNames image_names{"vision_config", "vision_model"}, text_names{"text_config", "text_model"};

/// One tower of the model that holds both.
template <class Tower, const TowerNames& names>
std::unique_ptr<Backbone> one_tower(const Config& config, const nn::Weights& root) {
  return finished<Tower>(tower_config(config, names.section), root, root / names.scope, config.integer("projection_dim", 512));
}

/// A tower that was saved on its own stands below `name` (with a projection beside it, or by older versions of transformers) or at the top.
template <class Tower>
std::unique_ptr<Backbone> alone(const Config& config, const nn::Weights& root, std::string_view name, const std::string& probe) {
  const nn::Weights below = root / name;
  return finished<Tower>(config, root, below.has(probe) ? below : root, config.integer("projection_dim", 512));
}

}  // namespace

Architecture clip_architecture() {
  return {"clip", {""}, "logit_scale", [](const Config& config, const nn::Weights& root) -> std::unique_ptr<Backbone> {
            return std::make_unique<Clip>(config, root);
          }};
}

Architecture clip_image_tower() {
  return {"clip", {""}, "logit_scale", one_tower<ClipImageTower, image_names>, Modality::image};
}

Architecture clip_text_tower() {
  return {"clip", {""}, "logit_scale", one_tower<ClipTextTower, text_names>, Modality::text};
}

Architecture clip_vision_architecture() {
  return {"clip_vision_model", {""}, "visual_projection.weight", [](const Config& config, const nn::Weights& root) {
            return alone<ClipImageTower>(config, root, "vision_model", "embeddings.class_embedding");
          }};
}

Architecture clip_text_architecture() {
  return {"clip_text_model", {""}, "text_projection.weight", [](const Config& config, const nn::Weights& root) {
            return alone<ClipTextTower>(config, root, "text_model", "embeddings.token_embedding.weight");
          }};
}

}  // namespace mmtune::backbones
