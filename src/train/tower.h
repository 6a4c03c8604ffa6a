#pragma once
// A tower: a frozen backbone with the experts on it, what reads its inputs, and how its tokens become one feature.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "backbones/backbone.h"
#include "backbones/sequence_model.h"
#include "experts/expert.h"
#include "io/checkpoint.h"
#include "nn/context.h"
#include "nn/parameters.h"
#include "train/inputs.h"

namespace mmtune::experts {
class JointExpert;
}

namespace mmtune::train {

/// The operations of one pass, in multiply-accumulates: forward, and what its backward pass needs.
struct PassMacs {
  double forward = 0;
  double backward = 0;
};

class Tower {
 public:
  /// Opens the model. `name` is "main" or "condition". `modality` chooses the tower of a model that has several; by default the usual one.
  /// Throws Error (missing files, unsupported architecture, no pooler, no class token).
  /// `storage`: of the backbone's large matrices.
  Tower(std::string name, const std::string& model, backbones::Pooling pooling, std::optional<backbones::Modality> modality = std::nullopt,
        nn::Storage storage = nn::Storage::f32);
  /// Computes on `device` from now on; before experts and readers.
  void move_to(at::Device device);
  /// How its frozen products are computed; `highest` until told otherwise.
  void compute_with(nn::MatmulPrecision precision) { precision_ = precision; }
  nn::MatmulPrecision precision() const { return precision_; }
  /// Opens what reads its inputs: the folder's tokenizer, image processor or feature extractor. Needed before reader().
  void open_reader(const ReaderOptions& options);

  /// See InputReader::read_sources.
  void read_sources(InputReader::Source source, InputReader::Words words) { reader_->read_sources(std::move(source), std::move(words)); }

  const std::string& name() const { return name_; }
  const io::Checkpoint& checkpoint() const { return checkpoint_; }
  backbones::Backbone& backbone() const { return *backbone_; }
  const InputReader& reader() const { return *reader_; }
  backbones::Modality modality() const { return backbone_->info().modality; }
  std::int64_t width() const;                              ///< D of its features
  backbones::Pooling pooling() const { return pooling_; }  ///< never `automatic`

  void add_expert(std::unique_ptr<experts::Expert> expert);
  const std::vector<std::unique_ptr<experts::Expert>>& experts() const { return experts_; }
  /// What is trained of the experts, under unique names: "main.lora.…"; a second expert of the same kind is "main.lora.2.…".
  std::vector<nn::NamedTensor> tensors() const;
  /// Whether anything below the pooled feature learns, or was learned: the features are not the backbone's own.
  bool trainable() const { return trainable_; }
  /// The expert that wants the other tower's feature; null where there is none.
  const experts::Expert* conditional() const;
  /// The expert that runs this tower and another together; null where there is none.
  const experts::JointExpert* joint() const;

  /// Inputs → [U, D], one feature a row; a video's is the largest of its frames', value by value. Nothing is kept for a backward pass where
  /// nothing is trainable or gradients are off.
  at::Tensor features(const backbones::ModelInputs& inputs, const nn::Context& context) const;
  /// The backbone where it writes answers; null for all others.
  backbones::SequenceModel* writer() const { return dynamic_cast<backbones::SequenceModel*>(backbone_.get()); }
  /// Logits of SequenceModel::taught().
  at::Tensor taught(const backbones::ModelInputs& inputs, const std::vector<std::int64_t>& rows, const at::Tensor& said,
                    const at::Tensor& learned, const nn::Context& context) const;
  /// The pooled rows of a pass that somebody else made.
  at::Tensor pooled(const backbones::ModelOutputs& outputs) const { return backbones::pool(outputs, pooling_); }
  /// What besides the backbone's weights decides the features of a tower without experts.
  std::string describe() const;
  /// Operations of one row of `tokens` tokens in training.
  /// `patches`: of its picture, where pictures differ in size (TowerBatch::patches).
  PassMacs macs(std::int64_t tokens, std::int64_t patches = 0) const;

 private:
  /// Whether an expert works beside the backbone: it reads all rows, and what it hands from block to block cannot be computed again.
  bool has_side_network() const;
  bool reads_first() const;

  std::string name_;
  io::Checkpoint checkpoint_;
  std::unique_ptr<backbones::Backbone> backbone_;
  std::unique_ptr<InputReader> reader_;
  backbones::Pooling pooling_;
  nn::Storage storage_;
  nn::MatmulPrecision precision_ = nn::MatmulPrecision::highest;
  at::Device device_ = at::kCPU;
  std::vector<std::unique_ptr<experts::Expert>> experts_;
  bool trainable_ = false;
  double backward_share_ = 0;  ///< of the backbone's forward operations that gradients of the tokens cost
};

}  // namespace mmtune::train
