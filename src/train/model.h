#pragma once
// The whole of what is trained and asked: towers, the head over their features, and the trainable tensors of both in one flat buffer.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "experts/interpolated.h"
#include "nn/parameters.h"
#include "train/batch_reader.h"
#include "train/head.h"
#include "train/optimiser.h"
#include "train/recipe.h"
#include "train/tower.h"
#include "train/wording.h"

namespace mmtune::train {

class Model {
 public:
  /// Opens the towers that the recipe names; no experts and no head yet.
  explicit Model(const Recipe& recipe);

  /// Builds the recipe's experts on their towers, seeded by train.seed.
  void build_experts(const Recipe& recipe);
  /// Builds the head; `learn_absent` has one entry a tower. Seeded by train.seed.
  void build_head(const Recipe& recipe, std::int64_t outputs, const std::vector<bool>& learn_absent);
  /// Task retrieve over one backbone: begins a linear head over its pooler with the checkpoint's own head of image-text matching, where
  /// it has one; a second output begins as its matching. Whether it did.
  bool begin_matching(std::int64_t outputs);
  /// For the head of kind zero_shot: begins it with the embeddings of the classes' prompts. Throws UsageError.
  void begin_zero_shot(const Recipe& recipe, const std::vector<std::string>& classes);
  /// Gathers all trainable tensors into the flat buffers. Call once, after both builds.
  std::vector<OptimiserGroup> gather(const TrainSection& section);

  std::vector<std::unique_ptr<Tower>>& towers() { return towers_; }
  const std::vector<std::unique_ptr<Tower>>& towers() const { return towers_; }
  at::Device device() const { return device_; }
  /// Moves what learns to the model's device; gather() does so too.
  void place();
  /// Tasks whose answers are sequences have none.
  bool has_head() const { return head_ != nullptr; }
  const Head& head() const { return *head_; }
  /// From now on the main tower is asked and taught as `wording` says: tasks whose answers are sequences.
  void set_wording(std::shared_ptr<const Wording> wording);
  const Wording* wording() const { return wording_.get(); }
  nn::Parameters& parameters() { return parameters_; }

  /// Widths of the features of all towers but the main one.
  std::vector<std::int64_t> complementary_widths() const;
  /// Whether the main tower is conditioned on the others' features, which are then computed first.
  bool conditional() const { return towers_.front()->conditional() != nullptr; }
  /// Task pair: what reads the second picture, which the main tower sees by itself; a batch has it behind the towers' own parts.
  const InputReader* pair_reader() const { return pair_reader_.get(); }
  /// The expert that runs the main tower and the second one together; null where there is none.
  const experts::JointExpert* joint() const { return towers_.front()->joint(); }
  /// Whether tower `tower` gives an input the same feature in every step, whatever else the example has.
  bool constant(std::size_t tower) const { return !towers_[tower]->trainable() && joint() == nullptr && !sequences_; }
  /// Whether every example must have tower `tower`'s modality, because nothing stands in for it.
  bool needs(std::size_t tower) const;
  /// Which towers lack something to read in some example of `dataset`.
  std::vector<bool> lacking(const data::Dataset& dataset) const;
  /// Features that tower `tower` gave to inputs before; taken instead of a forward pass wherever a batch says so.
  void set_store(std::size_t tower, FeatureStore store);
  const FeatureStore* store(std::size_t tower) const { return stores_[tower].get(); }
  /// `by_example`: a row an example, even where two have the same input.
  /// `teach`: with what the examples' answers should be, where answers are sequences.
  BatchReader reader(OnError on_error, bool by_example = false, bool teach = true) const;

  /// The experts that are averages of others.
  std::vector<experts::Interpolated*> interpolated() const;
  /// Brings experts up to their tensors, as forward() does.
  void before_pass();
  /// Tells experts that the step's last backward pass is over.
  void after_backward();
  /// One tower's features [U, D] of its part of a batch.
  at::Tensor features(std::size_t tower, const TowerBatch& part, const nn::Context& context) const;
  /// Logits [B, outputs] of a batch; where answers are sequences, [N, V] of all places of the batch that something is learned at. Where
  /// context.examples is set, it stands for the rows that each tower has in the batch.
  at::Tensor forward(const Batch& batch, const nn::Context& context) const;
  /// What the experts add to the task's loss for the batch that forward() was called with last: a scalar; undefined where there is nothing.
  at::Tensor auxiliary_loss(const Batch& batch) const;
  /// What an expert that runs the second tower with the main one adds to its row of `tokens` tokens, and to its way back.
  PassMacs joint_macs(std::int64_t tokens) const;
  /// Operations of a training step on the batch.
  PassMacs macs(const Batch& batch) const;

 private:
  std::vector<std::unique_ptr<Tower>> towers_;
  std::vector<std::unique_ptr<FeatureStore>> stores_;
  void forward_jointly(const Batch& batch, const nn::Context& context, std::vector<TowerFeatures>& features) const;
  void refuse_video(const ExpertSection& section) const;
  void open_towers(const BackboneSection& section);
  void share_pairs(std::vector<InputField>& fields) const;
  void condition(const Batch& batch, const std::vector<TowerFeatures>& features, nn::Context& context) const;

  std::unique_ptr<InputReader> pair_reader_;
  std::unique_ptr<Head> head_;
  bool sequences_ = false;  ///< the answers of the task are: no head
  std::shared_ptr<const Wording> wording_;
  std::vector<bool> learn_absent_;
  nn::Parameters parameters_;
  at::Device device_;
};

}  // namespace mmtune::train
