#pragma once
// Task embeddings of π-Tuning (Wu et al. 2023, arXiv 2304.14381): the diagonal of the Fisher information of an expert's tensors on its
// task's data, F = E[(∂ log p(y|x) / ∂φ)²]. It lives in the space of the expert, so that tasks of any modality can be compared.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "data/dataset.h"
#include "io/safetensors.h"
#include "nn/parameters.h"
#include "train/session.h"

namespace mmtune::methods {

/// What is squared. `sample`: the gradient of every example, in closed form from one backward pass a batch wherever the expert's kind
/// allows it (nn/squared_gradients.h), else by a pass an example. `micro_batch`: the gradient of the summed loss of `batch` examples, as
/// the released code does; depends on `batch`. `token`: every row of a linear map, cheaper, and an approximation.
enum class Granularity { sample, micro_batch, token };
/// `empirical`: the true labels. `sampled`: labels drawn from the model's own answers.
enum class LabelSource { empirical, sampled };

struct EmbeddingOptions {
  Granularity granularity = Granularity::sample;
  LabelSource labels = LabelSource::empirical;
  bool training = false;            ///< dropout as in training, instead of none
  std::optional<double> smoothing;  ///< of the labels; unset: as the expert was trained
  std::int64_t samples = 0;         ///< the first n examples; 0: all
  std::int64_t batch = 32;
  std::uint64_t seed = 0;  ///< of dropout and sampled labels
};
/// The options in words, as they are kept with an embedding: two embeddings compare only where these are equal.
std::string describe(const EmbeddingOptions& options);

/// The squares that a pass over data left, and what it passed over.
struct FisherDiagonal {
  std::vector<nn::NamedTensor> components;  ///< float32, by the names that a tower gives its trained tensors
  std::int64_t examples = 0;
  double mean_loss = 0;
  /// Why every example had a pass of its own, where the closed form was wanted; empty where it was used.
  std::string looped;
  double seconds = 0;  ///< of the pass
};

/// One pass over `dataset`. The model's readers must pad (train.packing = "padded") unless every example has a pass of its own. Sums are
/// float64. Throws Error: nothing to embed, a gradient that is not finite, a diagonal that is zero throughout.
FisherDiagonal fisher_diagonal(train::Model& model, const train::Task& task, const data::Dataset& dataset, const EmbeddingOptions& options,
                               train::OnError on_error = train::OnError::stop);

/// What is known of an embedding besides its numbers.
struct EmbeddingInfo {
  std::string task;      ///< a name for people: the run folder's
  std::string run;       ///< the run folder, absolute
  std::string expert;    ///< fingerprint of the expert's tensors
  std::string kind;      ///< of the expert; of several, joined by "+"
  std::string modality;  ///< what the run's towers read: "text", "image", "image+text"
  std::vector<std::string> backbones, backbone_names;
  std::string options;  ///< describe()
  std::int64_t examples = 0, batch = 0;
  double mean_loss = 0;
  std::string looped;
  double seconds = 0;  ///< of the pass; not kept
};
Json to_json(const EmbeddingInfo& info);
/// Throws Error naming `where`.
EmbeddingInfo embedding_info(const Json& json, const std::string& where);

/// An embedding on disk, mapped.
class TaskEmbedding {
 public:
  /// Throws Error: not an embedding, numbers that are negative or not finite, zeros throughout.
  static TaskEmbedding open(const std::filesystem::path& path);

  const EmbeddingInfo& info() const { return info_; }
  const std::vector<io::TensorEntry>& components() const { return file_.tensors(); }
  const io::TensorEntry* find(const std::string& name) const { return file_.find(name); }
  const std::filesystem::path& path() const { return path_; }
  /// Its pages leave memory until they are read again.
  void forget() const;

 private:
  TaskEmbedding(std::filesystem::path path, io::SafetensorsFile file) : path_(std::move(path)), file_(std::move(file)) {}
  std::filesystem::path path_;
  io::SafetensorsFile file_;
  EmbeddingInfo info_;
};

/// Fingerprint of the tensors of a run's experts.
std::string expert_fingerprint(const std::filesystem::path& run);

/// Embeds a finished run on its own training data (or on `data`, read as its recipe says) and writes the embedding to `out`.
EmbeddingInfo embed_run(const std::filesystem::path& run, const EmbeddingOptions& options, const std::filesystem::path& out,
                        const std::optional<std::string>& data = std::nullopt);

/// Where a run keeps its embedding.
std::filesystem::path embedding_of_run(const std::filesystem::path& run);

}  // namespace mmtune::methods
