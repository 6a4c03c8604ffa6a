#pragma once
// The loop of `mmtune pretrain`: steps, checkpoints, the log and the record. What is trained is a job of its own, and the loop knows none.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "core/json.h"
#include "nn/parameters.h"
#include "train/pretrain/recipe.h"

namespace mmtune::train {

struct PretrainOptions {
  std::filesystem::path out;
  bool resume = false;  ///< go on from the folder's last checkpoint, or begin where there is none
};

struct PretrainOutcome {
  enum class End { finished, interrupted, already_finished };
  End end = End::finished;
  int signal = 0;  ///< that interrupted it
  std::int64_t steps = 0;
};

/// The terms of a step's loss, by name.
using LossTerms = std::map<std::string, at::Tensor>;

/// A model under pretraining and what it learns from. Everything random in it is a function of the seed and the step.
class PretrainJob {
 public:
  PretrainJob() = default;
  virtual ~PretrainJob() = default;
  PretrainJob(const PretrainJob&) = delete;
  PretrainJob& operator=(const PretrainJob&) = delete;

  /// Of the data and the models that it reads, and how it computes: a checkpoint must agree on it.
  virtual std::string identity() const = 0;
  /// Adds every trainable tensor.
  virtual void list(nn::Parameters& parameters) const = 0;
  /// What run.json tells of it.
  virtual Json record() const = 0;
  /// What takes long and comes before the first step, in files of the run's folder. False where `stop` ended it.
  virtual bool prepare(const std::filesystem::path& run, const std::function<bool()>& stop) = 0;
  /// The steps from `first` to before `end` will be asked for, in order.
  virtual void begin(std::int64_t first, std::int64_t end) = 0;
  /// The loss of the next step, unweighted.
  virtual LossTerms losses() = 0;
  virtual double weight_of(const std::string& term) const = 0;
  /// The ids of the last step's examples, for messages.
  virtual std::vector<std::string> examples() const = 0;
  /// What the finished model makes of examples that it was not trained on; null: nothing is measured.
  virtual Json measure() { return {}; }
  /// Writes the model folder.
  virtual void write(const std::filesystem::path& folder) const = 0;
};

/// Trains in `options.out`, whose model/ is the result. `recipe` is the resolved recipe's text. A resumed training ends with the same bytes
/// as one that was never stopped. Throws Error: a loss that is not finite, a folder that is in use, exists or cannot be written.
PretrainOutcome run_pretraining(const PretrainLoopSection& section, const std::string& recipe, const PretrainOptions& options,
                                const std::function<std::unique_ptr<PretrainJob>()>& make_job);

/// Whether matrix products are made in bfloat16.
bool in_bfloat16(const PretrainLoopSection& section);

/// Writes tensors as float16.
void write_half(const std::filesystem::path& path, const std::vector<nn::NamedTensor>& tensors,
                const std::map<std::string, std::string>& metadata);

}  // namespace mmtune::train
