#pragma once
// adapter_config.json between PEFT's words and ours.

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "backbones/backbone.h"
#include "core/json.h"
#include "experts/peft_names.h"

namespace mmtune::experts {

/// How a file spells the modules of a backbone, told from its keys: the names of transformers 4 or 5, below a task's model ("bert.") or
/// not, with a tower's name in front or not.
class ModuleSpelling {
 public:
  ModuleSpelling(const std::vector<PeftKey>& keys, backbones::Backbone& backbone);

  /// The backbone's name of a module or tensor → the file's.
  std::string to_file(const std::string& name) const;
  /// And back. A module that is not below the backbone (a head) keeps its name.
  std::string from_file(const std::string& name) const;
  /// Whether the file has a tensor in this module of the backbone.
  bool present(const std::string& module) const;

 private:
  std::set<std::string> modules_;  ///< the file's
  std::string architecture_;
  Naming naming_ = Naming::checkpoint;
  std::string added_;    ///< in front of the file's names
  std::string dropped_;  ///< in front of the backbone's names
};

/// The expert kind that a peft_type names. Throws Error naming `where` for an unknown one.
std::string_view kind_of_peft_type(const std::string& type, const std::string& where);

/// A configuration in which target_modules and its relatives are lists of the backbone's own names, patterns are resolved, and
/// modules_to_save names modules of the backbone only. Kinds that are ours come back as they are. Throws Error naming the key for what is
/// not supported.
Json resolved_config(const Json& config, const std::string& where, backbones::Backbone& backbone, const ModuleSpelling& spelling);

}  // namespace mmtune::experts
