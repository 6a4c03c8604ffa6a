#pragma once
// Writing an expert as PEFT's own folder, for the modules of transformers' models.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "experts/expert.h"
#include "experts/peft_names.h"

namespace mmtune::experts {

struct PeftExport {
  Naming naming = Naming::modules;
  /// Whether the modules are those of a task's model (below "bert.") or of the bare backbone.
  bool task_model = false;
  bool without_pooler = false;               ///< the model has none, or has the head in its place
  std::string excluded;                      ///< regular expression for modules that names would mean too (CLIP's other tower)
  std::string base_model;                    ///< base_model_name_or_path
  std::string task_type;                     ///< SEQ_CLS, …; empty: none
  std::vector<std::string> modules_to_save;  ///< of the head
  std::vector<nn::NamedTensor> head;         ///< by the names of the task's model
  Json metadata;                             ///< kept as save_expert keeps it
};

/// Throws Error where PEFT has no such kind of expert.
void refuse_unknown_to_peft(const Expert& expert, const std::string& where);

/// Writes adapter_config.json and adapter_model.safetensors into `folder`, which exists.
void export_to_peft(const Expert& expert, backbones::Backbone& backbone, const PeftExport& how, const std::filesystem::path& folder);

}  // namespace mmtune::experts
