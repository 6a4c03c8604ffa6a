#pragma once
// What PEFT's files and the modules of transformers are called, and what checkpoints call the same tensors. transformers 5 renamed modules
// of ViT and Swin but kept their checkpoints; experts here use the checkpoints' names (below the backbone itself: no "bert." in front).

#include <string>
#include <string_view>

namespace mmtune::experts {

/// Which modules a file is written for. `checkpoint`: the names of checkpoints, which are those of transformers up to 4; `modules`: those
/// of transformers 5.
enum class Naming { checkpoint, modules };

/// "bert." where a task's model keeps a backbone of this model_type; empty where it has none.
std::string_view task_prefix(std::string_view architecture);

/// A checkpoint's name (or a part of it, whole components) in the spelling of `naming`.
std::string spelt_as(Naming naming, std::string_view architecture, std::string_view name);
/// The checkpoint's name of a module or tensor that is spelt either way.
std::string checkpoint_name(std::string_view architecture, std::string_view name);

/// A key of adapter_model.safetensors, taken apart.
struct PeftKey {
  std::string module;     ///< as transformers calls it, without "base_model.model."
  std::string parameter;  ///< "lora_A.weight", "ia3_l", "base_layer.bias", "weight", "prompt_embeddings" (without a module)
  /// A copy that PEFT lets slip into the file with bias = "all": of a kept module's bias before it was trained, or a second time.
  bool spare = false;
};

/// Understands what PEFT's versions wrote: "base_model.model." or "base_model." in front or neither, the adapter's name behind a parameter
/// (lora_A.default.weight) or not, lora_magnitude_vector with and without ".weight", modules_to_save.default. and original_module spelt
/// out.
PeftKey parse_peft_key(std::string_view key);

}  // namespace mmtune::experts
