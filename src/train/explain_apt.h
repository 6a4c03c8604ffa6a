#pragma once
// What `mmtune explain` finds out about APT: which of its prompts fire for which words and patches.

#include "report/apt_page.h"
#include "train/explain.h"

namespace mmtune::train {

/// Whether a tower of the run has an APT expert.
bool has_apt(const TrainedRun& run);

/// Asks the run about the examples of `dataset`, in evaluation mode. `options.gallery` inputs are shown of each prompt, and the examples
/// `options.ids` (else `options.paths` of them). Throws UsageError for an id that no example has.
report::AptPage explain_apt(const TrainedRun& run, const data::Dataset& dataset, const ExplainOptions& options);

}  // namespace mmtune::train
