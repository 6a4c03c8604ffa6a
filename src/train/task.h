#pragma once
// What a task is to the loop: targets and loss, metrics, and what a prediction looks like. A task is one file; the loop knows none.

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/json.h"
#include "data/dataset.h"
#include "report/metrics.h"
#include "train/recipe.h"

namespace mmtune::train {

/// Gathers a model's answers to a data set, batch by batch, and judges them.
class Scorer {
 public:
  virtual ~Scorer() = default;
  /// Logits [B, outputs] of the examples at `examples`.
  virtual void add(const at::Tensor& logits, const data::Dataset& dataset, std::span<const std::int64_t> examples) = 0;
  /// `bootstrap` unset: without confidence intervals.
  virtual std::vector<report::Metric> metrics(const std::optional<report::BootstrapOptions>& bootstrap) const = 0;
  /// What does not fit into a number (confusion matrix, figures per class).
  virtual Json details() const = 0;
};

/// One answer to one example.
struct Prediction {
  struct Item {
    std::string label;
    double score = 0;
  };
  std::vector<std::string> labels;  ///< the answer: one label, or those over the threshold
  std::vector<Item> top;            ///< best first
};

class Task {
 public:
  virtual ~Task() = default;
  virtual std::string_view name() const = 0;
  /// Width of the head's output.
  virtual std::int64_t outputs() const = 0;
  /// What the summed losses of these examples are to be divided by to be a mean: known before any forward pass, so that accumulated
  /// gradients are those of one large batch.
  virtual double weight(const data::Dataset& dataset, std::span<const std::int64_t> examples) const = 0;
  /// Sum over the examples of their losses: a scalar with a graph.
  virtual at::Tensor loss(const at::Tensor& logits, const data::Dataset& dataset, std::span<const std::int64_t> examples) const = 0;
  /// The same with labels drawn from the model's own answers (the true Fisher information). Throws UsageError where a task cannot.
  virtual at::Tensor sampled_loss(const at::Tensor& logits, const at::Generator& generator) const;
  virtual std::unique_ptr<Scorer> scorer() const = 0;
  virtual std::vector<Prediction> predict(const at::Tensor& logits, std::int64_t top) const = 0;
  /// Names of metrics that training may go by, the default first.
  virtual std::vector<std::string> metric_names() const = 0;
  /// Label names in the order of the outputs; empty for tasks without labels.
  virtual const std::vector<std::string>& classes() const = 0;
  /// Whether examples must have labels.
  virtual bool labelled() const { return true; }
  /// What an example should be answered with, as indices into classes(); none where that is not among them.
  virtual std::vector<std::int64_t> truth(const data::Example& example) const {
    return labelled() ? example.labels : std::vector<std::int64_t>();
  }
  /// Whether a training example can teach anything; the others are left out.
  virtual bool learns_from(const data::Example&) const { return true; }
  /// What is to be read for these training examples instead of themselves: the same number for each of them, one's behind the other's.
  /// Nothing: themselves. `seed` draws what is random. The logits of loss() are then those of all of them.
  virtual std::optional<data::Dataset> arranged(const data::Dataset&, std::span<const std::int64_t>, std::uint64_t) const {
    return std::nullopt;
  }
  /// Whether arranged() puts a picture and a text together that no example has, so that one backbone's feature of both is new.
  virtual bool pairs_anew() const { return false; }
  /// What predictions need to know again (the class list): kept in the run's record.
  virtual Json describe() const = 0;
};

/// Whether the examples of a task of this name must have labels.
bool has_labels(std::string_view task);
/// Whether a model writes the answers of a task of this name, token by token (train/sequences.h).
bool answers_in_sequences(std::string_view task);
/// The recipe's task, made ready for the training data. Throws Error on data that cannot be learned from.
std::unique_ptr<Task> make_task(const Recipe& recipe, const data::Dataset& train);
/// The task of a finished run, from its record. Throws Error naming `where`.
std::unique_ptr<Task> read_task(const Recipe& recipe, const Json& description, const std::string& where);

}  // namespace mmtune::train
