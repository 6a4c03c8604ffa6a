#pragma once
// Runs as PEFT's folders and PEFT's folders as runs, heads included.

#include <filesystem>
#include <string>
#include <vector>

#include "core/json.h"
#include "experts/peft_names.h"

namespace mmtune::train {

struct ExportOptions {
  std::filesystem::path run, out;
  std::string expert;  ///< of several: its folder's name below expert/
  experts::Naming naming = experts::Naming::modules;
  bool head = true;
};

struct Exported {
  std::string peft_type;
  std::string base_model;
  std::string model_class, auto_class;  ///< of transformers, that the folder fits
  bool head = false;
  std::vector<std::string> classes;  ///< in the order of the logits; empty without a head
};

/// Writes the run's expert (and its head where a model of transformers has the same) as PEFT's folder. Throws Error where PEFT has no such
/// expert, where transformers has no such head, and where `out` is there already; nothing is left behind then.
Exported export_run(const ExportOptions& options);

struct ImportOptions {
  std::filesystem::path folder, out;
  std::string backbone;
  std::vector<std::string> classes;
  bool multi_label = false;
};

struct Imported {
  std::string kind;
  bool head = false;  ///< false: `out` is an expert's folder and no run
  std::vector<std::string> classes;
  std::int64_t parameters = 0;
};

/// Makes a run of PEFT's folder and of the backbone that it belongs to. Without a head in it, an expert's folder. Throws Error as
/// experts::open_expert does, where the head is none that mmtune has, and where the classes do not fit it.
Imported import_peft(const ImportOptions& options);

}  // namespace mmtune::train
