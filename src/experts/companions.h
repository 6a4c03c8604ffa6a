#pragma once
// What PEFT trains beside an update: biases, and modules that are kept whole.

#include <memory>
#include <string>
#include <vector>

#include "experts/expert.h"

namespace mmtune::experts {

enum class Biases { none, all, lora_only };

/// In a resolved configuration: tensors of the backbone that the model of the file does not have.
inline constexpr const char* absent_key = "mmtune_absent";

struct Companions {
  Biases bias = Biases::none;
  std::vector<std::string> modules_to_save;  ///< modules of the backbone: names, or endings of names
  std::vector<std::string> absent;           ///< tensors that are left alone, whatever the other two say

  void declare(OptionVisitor& visitor, bool with_bias);
  void read_config(const Json& config, const std::string& where, bool with_bias);
  /// `expert` and what accompanies it as one expert; `expert` itself where nothing does. `targets`: the linear maps that it adapts, whose
  /// biases PEFT keeps under another name. Throws UsageError where an entry of modules_to_save names nothing.
  std::unique_ptr<Expert> around(std::unique_ptr<Expert> expert, backbones::Backbone& backbone,
                                 const std::vector<std::string>& targets) const;
};

}  // namespace mmtune::experts
