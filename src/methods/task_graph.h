#pragma once
// The task graph of π-Tuning: how alike the embeddings of tasks are, pair by pair, and which tasks are a task's neighbours. A new task
// costs its own embedding and one comparison with every other.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "methods/pairwise.h"
#include "methods/task_embedding.h"

namespace mmtune::methods {

/// One tensor of two embeddings.
struct ComponentSimilarity {
  std::string name;
  double value = 0;      ///< <u,v> / (‖u‖ ‖v‖), u = a / (a + b + ε), v = b / (a + b + ε), elementwise; ε = 1e-6
  bool skipped = false;  ///< one of the two is zero throughout: nothing can be said
};

struct PairSimilarity {
  double similarity = 0;  ///< the mean over the components that were not skipped, each with the same weight
  double cosine = 0;      ///< of the whole embeddings as they are
  std::int64_t skipped = 0;
  std::vector<ComponentSimilarity> components;
};

/// The same names and shapes in the same order on both sides.
PairSimilarity compare(const std::vector<ComponentView>& a, const std::vector<ComponentView>& b);
/// Throws Error naming both tasks as components_like does, and where no tensor is other than zero in both.
PairSimilarity compare(const TaskEmbedding& a, const TaskEmbedding& b);

/// The layer or module that a component belongs to, as people name it: "layer 3", "stage 1, block 0", "ladder".
std::string layer_of_component(const std::string& name);

struct GraphTask {
  EmbeddingInfo info;
  std::string embedding;  ///< file, absolute or relative to the graph's folder
};

class TaskGraph {
 public:
  /// Throws Error naming the file: not a graph, damaged, not symmetric, numbers out of range.
  static TaskGraph open(const std::filesystem::path& path);
  void save(const std::filesystem::path& path) const;

  /// Compares the embeddings with those of all tasks that are there and with each other (compare_all, which says what of them is in
  /// memory). `names`: one each. `notice`: called with the share that is done, 0 to 1. Throws Error, and then adds none: a name that is
  /// taken, an embedding that does not fit to the others, a file of another task that is gone.
  void add(const std::vector<TaskEmbedding>& embeddings, const std::vector<std::string>& names,
           const std::function<void(double share)>& notice = {});

  /// What the task is about, where its backbone reads more than that; pictures of the graph are coloured by it.
  void set_modality(std::size_t task, std::string modality) { tasks_.at(task).info.modality = std::move(modality); }

  std::size_t size() const { return tasks_.size(); }
  const std::vector<GraphTask>& tasks() const { return tasks_; }
  double similarity(std::size_t i, std::size_t j) const { return pair(i, j).similarity; }
  double cosine(std::size_t i, std::size_t j) const { return pair(i, j).cosine; }
  std::int64_t skipped(std::size_t i, std::size_t j) const { return pair(i, j).skipped; }
  std::int64_t components() const { return components_; }
  /// Names of layers, and for a pair the mean similarity of each layer's components (NaN where all were skipped).
  const std::vector<std::string>& layers() const { return layers_; }
  const std::vector<double>& by_layer(std::size_t i, std::size_t j) const { return pair(i, j).layers; }

  /// The place of a task, by its name or its run folder. Throws UsageError naming the nearest.
  std::size_t index_of(const std::string& task) const;
  /// The k tasks most like `task`, best first, ties to the lower index. Throws UsageError where the graph has no k others.
  std::vector<std::size_t> neighbours(std::size_t task, std::size_t k, bool by_cosine = false) const;
  /// The other end: the k least alike, least first.
  std::vector<std::size_t> strangers(std::size_t task, std::size_t k) const;
  /// Places in an order that puts alike tasks side by side: the leaves of an average-linkage tree.
  std::vector<std::size_t> clustered() const;

 private:
  std::vector<GraphTask> tasks_;
  const PairSummary& pair(std::size_t i, std::size_t j) const { return i < j ? pairs_[j][i] : pairs_[i][j]; }
  std::vector<std::vector<PairSummary>> pairs_;  ///< symmetric: of a task with those before it, and with itself
  std::vector<std::string> layers_;
  std::int64_t components_ = 0;
  std::filesystem::path folder_;
};

}  // namespace mmtune::methods
