#include "backbones/vilt_names.h"

#include <array>
#include <string_view>
#include <utility>

namespace mmtune::backbones {

namespace {

using Renaming = std::pair<std::string_view, std::string_view>;

constexpr std::array<Renaming, 7> tops = {{{"embeddings.text_embeddings.", "text_embeddings."},
                                           {"embeddings.token_type_embeddings.", "token_type_embeddings."},
                                           {"embeddings.cls_token", "transformer.cls_token"},
                                           {"embeddings.position_embeddings", "transformer.pos_embed"},
                                           {"embeddings.patch_embeddings.projection.", "transformer.patch_embed.proj."},
                                           {"layernorm.", "transformer.norm."},
                                           {"mlm_score.", "mlm_score."}}};
constexpr std::array<Renaming, 5> parts = {{{"attention.output.dense.", "attn.proj."},
                                            {"intermediate.dense.", "mlp.fc1."},
                                            {"output.dense.", "mlp.fc2."},
                                            {"layernorm_before.", "norm1."},
                                            {"layernorm_after.", "norm2."}}};
constexpr std::array<std::string_view, 3> thirds = {"attention.attention.query.", "attention.attention.key.", "attention.attention.value."};

}  // namespace

nn::Stored original_vilt_place(const std::string& name, bool pair) {
  constexpr std::string_view layers = "encoder.layer.", classifier = "classifier.";
  const std::string_view view = name;
  if (view.starts_with(classifier)) return {.name = (pair ? "nlvr2_" : "vqa_") + name};
  if (!view.starts_with(layers)) {
    for (const auto& [theirs, original] : tops)
      if (view.starts_with(theirs)) return {.name = std::string(original) + std::string(view.substr(theirs.size()))};
    return {.name = name};  // pooler.dense, rank_output
  }
  const std::size_t dot = view.find('.', layers.size());
  const std::string_view part = dot == std::string_view::npos ? std::string_view() : view.substr(dot + 1);
  const std::string block = "transformer.blocks." + std::string(view.substr(layers.size(), dot - layers.size())) + ".";
  for (std::size_t i = 0; i < thirds.size(); ++i)
    if (part.starts_with(thirds[i]))
      return {.name = block + "attn.qkv." + std::string(part.substr(thirds[i].size())), .part = static_cast<std::int64_t>(i), .parts = 3};
  for (const auto& [theirs, original] : parts)
    if (part.starts_with(theirs)) return {.name = block + std::string(original) + std::string(part.substr(theirs.size()))};
  return {.name = name};
}

}  // namespace mmtune::backbones
