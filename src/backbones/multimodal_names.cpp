#include "backbones/multimodal_names.h"

#include <array>
#include <optional>
#include <string_view>
#include <utility>

namespace mmtune::backbones {

namespace {

/// The rest of `name` behind `prefix`, where it begins so.
std::optional<std::string> behind(const std::string& name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  return name.substr(prefix.size());
}

using Renaming = std::pair<std::string_view, std::string_view>;

/// `name` with the first occurrence of each left side replaced by its right side.
template <std::size_t count>
std::string renamed(std::string name, const std::array<Renaming, count>& rules) {
  for (const auto& [from, to] : rules)
    if (const std::size_t at = name.find(from); at != std::string::npos) name.replace(at, from.size(), to);
  return name;
}

/// transformers' names of EVA's ViT to those of the released code (timm's).
constexpr std::array<Renaming, 11> eva_rules = {{{"embeddings.class_embedding", "cls_token"},
                                                 {"embeddings.position_embedding", "pos_embed"},
                                                 {"embeddings.patch_embedding", "patch_embed.proj"},
                                                 {"encoder.layers.", "blocks."},
                                                 {"layer_norm1", "norm1"},
                                                 {"layer_norm2", "norm2"},
                                                 {"self_attn.qkv", "attn.qkv"},
                                                 {"self_attn.q_bias", "attn.q_bias"},
                                                 {"self_attn.v_bias", "attn.v_bias"},
                                                 {"self_attn.projection", "attn.proj"},
                                                 {"post_layernorm", "ln_vision"}}};
constexpr std::array<Renaming, 3> q_former_rules = {{{"embeddings.layernorm", "embeddings.LayerNorm"},
                                                     {"crossattention.attention.", "crossattention.self."},
                                                     {".attention.attention.", ".attention.self."}}};
/// What the released code of several families calls the language model, and the map into it.
constexpr std::array<const char*, 4> official_models = {"llama_model", "llm_model", "opt_model", "t5_model"};
constexpr std::array<const char*, 4> official_projections = {"llama_proj", "llm_proj", "opt_proj", "t5_proj"};

}  // namespace

std::vector<std::string> spellings_of(const std::string& name) {
  if (const auto rest = behind(name, "vision_tower."))
    return {"vision_tower.vision_model." + *rest, "model.vision_tower." + *rest, "vision_tower." + *rest,
            "model.vision_tower.vision_model." + *rest};
  if (name.starts_with("multi_modal_projector.")) return {name, "model." + name};
  if (const auto rest = behind(name, "vision_model.")) {
    const std::string official = renamed(*rest, eva_rules);
    if (official.starts_with("ln_vision")) return {name, official};
    return {name, "visual_encoder." + official, official};  // the encoder's own file has no scope
  }
  if (const auto rest = behind(name, "qformer.")) {
    std::vector<std::string> names = {name};
    // BLIP-2 has no words, and its norm stands by itself.
    if (const auto norm = behind(*rest, "embeddings.layernorm")) names.push_back("qformer.layernorm" + *norm);
    names.push_back("Qformer.bert." + renamed(*rest, q_former_rules));
    return names;
  }
  if (const auto rest = behind(name, "language_projection.")) {
    std::vector<std::string> names = {name};
    for (const char* official : official_projections) names.push_back(official + ("." + *rest));
    return names;
  }
  if (name == "lm_head.weight" || name == "language_model.lm_head.weight") {
    std::vector<std::string> names = {"language_model.lm_head.weight", "lm_head.weight"};  // the second: a language model's own files too
    for (const char* official : official_models) names.push_back(std::string(official) + ".lm_head.weight");
    return names;
  }
  if (auto rest = behind(name, "language_model.")) {
    for (const char* scope : {"model.decoder.", "model."})
      if (const auto body = behind(*rest, scope)) rest = body;
    std::vector<std::string> names = {"language_model.model." + *rest, "model.language_model." + *rest,
                                      "language_model.model.decoder." + *rest, "language_model." + *rest};
    for (const char* official : official_models)
      for (const char* scope : {".model.", ".model.decoder.", "."}) names.push_back(official + (scope + *rest));
    for (const char* scope : {"model.", "model.decoder.", ""}) names.push_back(scope + *rest);
    return names;
  }
  return {name};
}

nn::Weights::Layout multimodal_layout(const io::Checkpoint& checkpoint) {
  return [checkpoint](const std::string& name) {
    const std::vector<std::string> names = spellings_of(name);
    for (const std::string& one : names)
      if (checkpoint.find(one) != nullptr) return nn::Stored{.name = one};
    return nn::Stored{.name = names.front()};
  };
}

}  // namespace mmtune::backbones
