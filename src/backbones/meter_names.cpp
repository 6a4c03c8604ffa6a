#include "backbones/meter_names.h"

#include <ATen/ATen.h>

#include <array>
#include <cmath>
#include <span>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace mmtune::backbones {

namespace {

using Renaming = std::pair<std::string_view, std::string_view>;

constexpr std::string_view scope = "vit_model.";

/// Beginnings of names below the scope.
constexpr std::array<Renaming, 6> clip_tops = {{{"embeddings.class_embedding", "visual.class_embedding"},
                                                {"embeddings.patch_embedding.", "visual.conv1."},
                                                {"embeddings.position_embedding.weight", "visual.positional_embedding"},
                                                {"pre_layrnorm.", "visual.ln_pre."},
                                                {"post_layernorm.", "visual.ln_post."},
                                                {"encoder.layers.", "visual.transformer.resblocks."}}};
constexpr std::array<Renaming, 4> swin_tops = {{{"embeddings.patch_embeddings.projection.", "patch_embed.proj."},
                                                {"embeddings.norm.", "patch_embed.norm."},
                                                {"layernorm.", "norm."},
                                                {"encoder.layers.", "layers."}}};
/// Parts of a block. Longer names stand before those that they end in.
constexpr std::array<Renaming, 5> clip_parts = {{{"self_attn.out_proj.", "attn.out_proj."},
                                                 {"layer_norm1.", "ln_1."},
                                                 {"layer_norm2.", "ln_2."},
                                                 {"mlp.fc1.", "mlp.c_fc."},
                                                 {"mlp.fc2.", "mlp.c_proj."}}};
constexpr std::array<Renaming, 6> swin_parts = {{{"layernorm_before.", "norm1."},
                                                 {"layernorm_after.", "norm2."},
                                                 {"attention.self.relative_position_bias_table", "attn.relative_position_bias_table"},
                                                 {"attention.output.dense.", "attn.proj."},
                                                 {"intermediate.dense.", "mlp.fc1."},
                                                 {"output.dense.", "mlp.fc2."}}};
constexpr std::array<std::string_view, 3> clip_thirds = {"self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."};
constexpr std::array<std::string_view, 3> swin_thirds = {"attention.self.query.", "attention.self.key.", "attention.self.value."};

/// The side of a square of so many elements; 0 where it is none.
std::int64_t side_of(std::int64_t elements) {
  const auto side = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(elements))));
  return side * side == elements ? side : 0;
}

/// [side², D] → [wanted², D]
at::Tensor resized(const at::Tensor& square, std::int64_t side, std::int64_t wanted) {
  const at::Tensor grid = square.t().reshape({1, square.size(1), side, side});
  return at::upsample_bicubic2d(grid, {wanted, wanted}, false).view({square.size(1), wanted * wanted}).t();
}

[[noreturn]] void refuse_table(const at::Tensor& table, at::IntArrayRef shape, const std::string& name) {
  throw Error({.what = "the position table cannot be interpolated",
               .where = name,
               .expected = std::to_string(shape[0]) + " rows of width " + std::to_string(shape[1]) + ", or those of another square",
               .got = std::to_string(table.size(0)) + " rows of width " + std::to_string(table.dim() > 1 ? table.size(1) : 0)});
}

}  // namespace

std::string_view name_of(MeterImageEncoder encoder) {
  return encoder == MeterImageEncoder::clip ? "clip_vision_model" : "swin";
}

at::Tensor resized_grid_table(const at::Tensor& table, at::IntArrayRef shape, const std::string& name) {
  const bool fits = table.dim() == 2 && table.size(1) == shape[1] && table.size(0) > 1;
  const std::int64_t side = fits ? side_of(table.size(0) - 1) : 0, wanted = side_of(shape[0] - 1);
  if (side == 0 || wanted == 0) refuse_table(table, shape, name);
  return at::cat({table.slice(0, 0, 1), resized(table.slice(0, 1), side, wanted)});
}

at::Tensor resized_offset_table(const at::Tensor& table, at::IntArrayRef shape, const std::string& name) {
  const bool fits = table.dim() == 2 && table.size(1) == shape[1] && table.size(0) > 0;
  const std::int64_t side = fits ? side_of(table.size(0)) : 0, wanted = side_of(shape[0]);
  if (side == 0 || wanted == 0) refuse_table(table, shape, name);
  return resized(table, side, wanted);
}

nn::Stored original_meter_place(const std::string& name, MeterImageEncoder encoder) {
  const std::string_view view = name;
  // Nobody reads it, and it costs a map a text.
  if (view.starts_with("text_transformer.pooler.")) return {.name = "(not read)"};
  if (!view.starts_with(scope)) return {.name = name};
  const bool clip = encoder == MeterImageEncoder::clip;
  std::string rest(view.substr(scope.size()));
  for (const auto& [ours, theirs] : clip ? std::span<const Renaming>(clip_tops) : std::span<const Renaming>(swin_tops)) {
    if (!rest.starts_with(ours)) continue;
    rest.replace(0, ours.size(), theirs);
    break;
  }
  nn::Stored place;
  const auto& thirds = clip ? clip_thirds : swin_thirds;
  for (std::size_t i = 0; i < thirds.size(); ++i) {
    const std::size_t at = rest.find(thirds[i]);
    if (at == std::string::npos) continue;
    // CLIP's fused map is a parameter of its own: in_proj_weight.
    rest.replace(at, thirds[i].size(), clip ? "attn.in_proj_" : "attn.qkv.");
    place.part = static_cast<std::int64_t>(i);
    place.parts = 3;
    break;
  }
  if (place.parts == 1) {
    for (const auto& [ours, theirs] : clip ? std::span<const Renaming>(clip_parts) : std::span<const Renaming>(swin_parts)) {
      const std::size_t at = rest.find(ours);
      if (at == std::string::npos) continue;
      rest.replace(at, ours.size(), theirs);
      break;
    }
  }
  place.name = std::string(scope) + rest;
  if (rest == "visual.positional_embedding")
    place.fit = [name = place.name](const at::Tensor& table, at::IntArrayRef shape) { return resized_grid_table(table, shape, name); };
  if (rest.ends_with("relative_position_bias_table"))
    place.fit = [name = place.name](const at::Tensor& table, at::IntArrayRef shape) { return resized_offset_table(table, shape, name); };
  return place;
}

}  // namespace mmtune::backbones
