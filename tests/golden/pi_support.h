#pragma once
// What the cases of pi-Tuning share: OFA with the official weights, and experts by the official names.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backbones/ofa.h"
#include "experts/interpolated.h"
#include "golden.h"

namespace mmtune::golden {

/// Copies "w." + the name of every tensor of the backbone in; throws Error where the case lacks one.
void fill_official(Case& golden, backbones::Backbone& backbone, const std::string& prefix = "w.");
/// The model that a case was computed with, words only or with pictures.
std::unique_ptr<backbones::Ofa> official_ofa(Case& golden);

/// Ours "encoder.layers.0.self_attn.adapter.down_proj.weight" → official "encoder.layers.0.adapter1.down_proj.weight"; with `expert`:
/// "….adapters1.2.down_proj.weight". The second adapter of a layer stands behind fc2.
std::string official_adapter(const std::string& ours, std::optional<std::size_t> expert = std::nullopt);
/// Ours "encoder.layers.0.fc2" → official "encoder.layers.0.adapter_interpolation_weight2".
std::string official_coefficients(const std::string& site);

/// Names of the tensors of an expert that `config` describes on the backbone.
std::vector<std::string> names_of_expert(const std::string& kind, const Json& config, backbones::Backbone& backbone);
/// Official adapters as parts: `prefix` in front of the official names of expert i.
experts::InterpolationPart adapter_part(Case& golden, const std::vector<std::string>& names, const Json& config, std::size_t number,
                                        const std::function<std::string(const std::string&)>& official);
/// K official adapters below "w." as one average with the case's coefficients.
std::unique_ptr<experts::Interpolated> official_average(Case& golden, backbones::Backbone& backbone, std::int64_t count);
/// Compares gradients of an average of adapters with "grad.…".
void compare_average_gradients(Case& golden, const experts::Interpolated& average);

/// The tensor of an expert by its name; throws Error where it has none.
at::Tensor expert_tensor(const experts::Expert& expert, const std::string& name);
/// [L, B, D] → [B·L, D] and back.
at::Tensor rows_of(const at::Tensor& sequence_first);
at::Tensor sequence_first(const at::Tensor& rows, std::int64_t batch);

}  // namespace mmtune::golden
