#pragma once
// What `mmtune explain` finds out about a run: the routing of its experts over a data set, what they stand for, and what depends on them.

#include <cstdint>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "report/mope_page.h"
#include "train/session.h"

namespace mmtune::train {

struct ExplainOptions {
  std::int64_t batch = 32;
  std::size_t gallery = 12;      ///< inputs shown of every expert
  std::size_t words = 14;        ///< words shown of every expert
  std::size_t paths = 4;         ///< examples whose way is shown, spread over the data
  std::vector<std::string> ids;  ///< instead: these examples
  bool ablate = true;            ///< one more pass over the data for every expert
};

/// Asks the run about the labelled examples of `dataset`, in evaluation mode. Throws UsageError for a run without an expert that routes,
/// and for an id that no example has.
report::MopePage explain(const TrainedRun& run, const data::Dataset& dataset, const ExplainOptions& options);

}  // namespace mmtune::train
