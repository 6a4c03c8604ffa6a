// The one list of commands. A build without LibTorch (readers only, for sanitizers) has those that need none.

#include "command.h"
#include "commands.h"
#include "core/version.h"

namespace mmtune::cli {

std::vector<Command> all_commands() {
  std::vector<Command> commands;
#ifdef MMTUNE_WITH_TORCH
  commands.push_back(train_command());
  commands.push_back(eval_command());
  commands.push_back(predict_command());
  commands.push_back(explain_command());
  commands.push_back(cost_command());
  commands.push_back(reference_command());
#endif
  commands.push_back(inspect_command());
  commands.push_back(preprocess_command());
#ifdef MMTUNE_WITH_TORCH
  commands.push_back(forward_command());
  commands.push_back(export_command());
  commands.push_back(import_command());
  commands.push_back(merge_command());
  commands.push_back(graph_command());
  commands.push_back(prompt_command());
  commands.push_back(pretrain_command());
#endif
  commands.push_back(pull_command());
  return commands;
}

#ifndef MMTUNE_WITH_TORCH
void start_engine(const Session&) {}
#endif

std::string version_line() {
  const std::string torch(torch_version());
  return "mmtune " + std::string(version()) + " (" + (torch.empty() ? "readers only, without LibTorch" : "LibTorch " + torch) + ")";
}

}  // namespace mmtune::cli
