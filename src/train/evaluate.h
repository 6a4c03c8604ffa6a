#pragma once
// A model's answers to a whole data set, in file order.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "report/metrics.h"
#include "train/communicator.h"
#include "train/model.h"
#include "train/task.h"

namespace mmtune::train {

struct ForwardOptions {
  std::int64_t batch = 32;
  int workers = 1;
  OnError on_error = OnError::stop;
  std::string label;            ///< of the progress bar; empty: none
  std::function<bool()> stop;   ///< asked between batches; unset: never. Not together with several processes
  Communicator* all = nullptr;  ///< processes that share the work, all with the same model and data; null: this one does it
};

/// Calls `use` with every batch of a data set that is this process' to do, in file order, without gradients. `teach`: batches have the
/// answers' words too, where the model writes. False where `stop` ended it early.
bool each_batch(const Model& model, const data::Dataset& dataset, const ForwardOptions& options, bool teach,
                const std::function<void(const Batch&)>& use);
/// The same with the logits [B, outputs] of every batch. False where `stop` ended it early.
bool forward_all(const Model& model, const data::Dataset& dataset, const ForwardOptions& options,
                 const std::function<void(const at::Tensor&, const Batch&)>& use);

/// What the model makes of the examples that have the same modalities.
struct PatternResult {
  std::string pattern;  ///< "main + condition", "main only"
  std::int64_t examples = 0;
  std::vector<report::Metric> metrics;
};

struct Evaluation {
  std::vector<report::Metric> metrics;
  std::vector<PatternResult> patterns;  ///< empty where all examples have the same modalities
  Json details;
  std::int64_t examples = 0;
  std::vector<std::string> skipped;  ///< messages of examples that could not be read
  double seconds = 0;
  const report::Metric* find(std::string_view name) const;
};

/// Nothing where `stop` ended it early. Throws Error where no example could be read.
std::optional<Evaluation> evaluate(const Model& model, const Task& task, const data::Dataset& dataset, const ForwardOptions& options,
                                   const std::optional<report::BootstrapOptions>& bootstrap = std::nullopt);

/// {"accuracy": 0.9, "loss": 0.2}: null for what is not defined.
Json to_json(const std::vector<report::Metric>& metrics);

}  // namespace mmtune::train
