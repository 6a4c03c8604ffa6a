#pragma once
// The commands, each defined in the file of its name.

#include "command.h"

namespace mmtune::cli {

Command inspect_command();
Command preprocess_command();
Command forward_command();
Command train_command();
Command eval_command();
Command predict_command();
Command cost_command();
Command explain_command();
Command reference_command();
Command pretrain_command();
Command pull_command();
Command export_command();
Command import_command();
Command merge_command();
Command graph_command();
Command prompt_command();

}  // namespace mmtune::cli
