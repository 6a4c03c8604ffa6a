#pragma once
// Everything that a training or a question to a finished run needs, opened in the order in which mistakes are cheapest to find.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/json.h"
#include "data/dataset.h"
#include "train/model.h"
#include "train/optimiser.h"
#include "train/recipe.h"
#include "train/run_folder.h"
#include "train/task.h"

namespace mmtune::train {

struct TrainingData {
  data::Dataset train;
  std::optional<data::Dataset> valid;
};

/// Reads both splits. Throws Error or UsageError as data::read_dataset does.
TrainingData read_training_data(const DataSection& section, std::int64_t seed, bool labelled = true);

/// Tells the user of rows that data.on_error = "skip" left out.
void warn_of_skipped_rows(const data::Dataset& dataset);

/// A model about to be trained.
struct Training {
  TrainingData data;
  std::unique_ptr<Task> task;
  std::unique_ptr<Model> model;
  std::vector<OptimiserGroup> groups;
  std::vector<std::string> backbones;  ///< fingerprints, one a tower
  std::vector<bool> learn_absent;      ///< one a tower
  std::string metric;                  ///< that best and early stopping go by
};
Training prepare_training(const Recipe& recipe);

/// A finished (or interrupted) run, opened for questions.
struct TrainedRun {
  Recipe recipe;
  Json record;
  std::unique_ptr<Task> task;
  std::unique_ptr<Model> model;
};
/// `assignments` change the run's recipe (backbone.main=… where a model has moved). Throws Error where the run holds no expert yet, or
/// where a backbone is another one than it was trained on.
TrainedRun open_run(const std::filesystem::path& path, std::span<const std::string> assignments = {});

/// The same for a run of averaged experts (method = "pi"), with the average taken apart again: its experts come from their own runs, its
/// coefficients from the record. Throws UsageError for another run, Error where an expert's run is gone.
TrainedRun open_interpolated(const std::filesystem::path& path, std::span<const std::string> assignments = {});

/// How to read the data of a question: as the recipe says, but for what belongs to its own splits. A run's data.limit was for its training:
/// other data is read whole, unless `assignments` say the limit that `section` has now.
data::ReadOptions question_options_of(const DataSection& section, const std::string& path, std::vector<std::string> classes,
                                      std::span<const std::string> assignments = {});
/// The same with the classes of a task that has labels.
data::ReadOptions question_options_of(const DataSection& section, const std::string& path, const Task& task,
                                      std::span<const std::string> assignments = {});

/// What a run keeps of its experts and head, with `metadata` in every expert. One expert lies in expert/ itself, several in
/// expert/TOWER-KIND/.
void save_trained(const RunFolder& run, const Model& model, const std::vector<std::string>& backbones, const Json& metadata);
/// One entry an expert: {"folder", "tower", "kind", "parameters"}.
Json describe_experts(const Model& model);

}  // namespace mmtune::train
