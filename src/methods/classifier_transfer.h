#pragma once
// The transfer matrix over classifiers: visual prompts on the picture towers of finished runs, whose backbones, experts and heads stay as
// they are.

#include <filesystem>
#include <string>
#include <vector>

#include "methods/tvp_transfer.h"

namespace mmtune::methods {

/// Whether `path` is the folder of a finished run of task classify.
bool is_classifier_run(const std::filesystem::path& path);

/// Every prompt, the framed picture without one and the picture as the tower's processor makes it, on every run of `options.models`, for
/// all data. Data is read as each run's own recipe says, with `options.assignments`; a visual prompt that a run has itself is taken off. A
/// prompt's sources are the runs over the backbone that it was trained on. Throws Error or UsageError: no run of task classify, more than
/// one label an example, a tower that does not read square pictures, runs that read different examples.
report::TransferMatrix classifier_transfer(const std::vector<NamedPrompt>& prompts, const TransferOptions& options);

}  // namespace mmtune::methods
