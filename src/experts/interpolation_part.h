#pragma once
// An expert that is to be averaged with others (experts/interpolated.h): how it is read, and which ones fit together.

#include <string>
#include <string_view>
#include <vector>

#include "experts/expert.h"

namespace mmtune::experts {

/// An expert to be averaged, as it lies on disk.
struct InterpolationPart {
  std::string task;    ///< a name for people
  std::string folder;  ///< that holds adapter_config.json
  std::vector<nn::NamedTensor> tensors;
  Json config;  ///< in the backbone's own names (Expert::config)
  std::string kind;
};

/// Reads the expert of a run folder (or of a folder with adapter_config.json) for `backbone`. Throws Error: the folder is gone, holds
/// several experts, or belongs to another backbone (unless the fingerprint is empty).
InterpolationPart read_part(const std::string& run, backbones::Backbone& backbone, const std::string& fingerprint);

/// Throws Error naming both folders where two experts cannot be averaged: another kind, other sites, other shapes (LoRA's ranks may
/// differ).
void refuse_unlike(const InterpolationPart& first, const InterpolationPart& part);

/// Whether a tensor of this name is one of LoRA's two factors.
bool is_lora_tensor(std::string_view name);

}  // namespace mmtune::experts
