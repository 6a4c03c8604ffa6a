#pragma once
// The tensor names of ViLT's released checkpoints (Lightning files, "transformer.blocks.0.attn.qkv.weight") for those of transformers.

#include <string>

#include "nn/weights.h"

namespace mmtune::backbones {

/// A tensor that only the released layout has.
inline constexpr const char* original_vilt_probe = "transformer.cls_token";
/// Where the released layout keeps the tensor that ViltModel calls `name`. Queries, keys and values are thirds of one matrix; names of task
/// heads are those of transformers' task models (`classifier` is what `pair` says: nlvr2_classifier, else vqa_classifier).
nn::Stored original_vilt_place(const std::string& name, bool pair);

}  // namespace mmtune::backbones
