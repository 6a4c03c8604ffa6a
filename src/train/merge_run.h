#pragma once
// A run as a plain checkpoint: experts folded into the weights, the head where a model of transformers has the same.

#include <filesystem>
#include <string>
#include <vector>

namespace mmtune::train {

struct MergeOptions {
  std::filesystem::path run, out;
  std::string tower;  ///< "main" or "condition" of a run over two checkpoints
  bool head = true;
  bool as_float = false;  ///< write float32 whatever the source holds
};

struct Merged {
  std::string model_class;            ///< of transformers
  std::vector<std::string> changed;   ///< tensors that are not the source's
  std::vector<std::string> left_out;  ///< tensors of the source that the model with this head does not have
  std::vector<std::string> files;
  std::vector<std::string> classes;
  double largest_change = 0;  ///< largest rounding of a merged number by the source's dtype
};

/// Writes config.json, the weights (in the source's dtypes, in shards where the source has them or where they exceed 5 GB), and copies of
/// the tokenizer's and processors' files into a new folder. Throws Error where an expert cannot be folded exactly, where the head is no
/// model of transformers', and where a number is not finite or does not fit into the source's dtype; nothing is left behind then.
Merged merge_run(const MergeOptions& options);

}  // namespace mmtune::train
