#include "train/model.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>

#include "core/error.h"
#include "core/hash.h"
#include "train/device.h"
#include "train/zero_shot.h"

namespace mmtune::train {

namespace {

using backbones::Modality;

// Streams of train.seed; steps use the numbers from 0 up, so these count down from the top.
constexpr std::uint64_t head_stream = ~std::uint64_t{0};
constexpr std::uint64_t expert_stream = ~std::uint64_t{0} - 1000;

at::Generator generator_of(std::int64_t seed, std::uint64_t stream) {
  return at::detail::createCPUGenerator(mix_seed(static_cast<std::uint64_t>(seed), stream));
}

Modality modality_of(const std::vector<std::unique_ptr<Tower>>& towers, std::size_t tower) {
  return towers[tower]->modality();
}

/// What a field holds; nothing where the backbone decides.
std::optional<Modality> modality_of(InputField field) {
  switch (field) {
    case InputField::text:
    case InputField::text_pair:
      return Modality::text;
    case InputField::image:
    case InputField::image_pair:
      return Modality::image;
    case InputField::automatic:
      break;
  }
  return std::nullopt;
}

std::string_view name_of(ExpertTower tower) {
  return tower == ExpertTower::main ? "main" : "condition";
}

}  // namespace

Model::Model(const Recipe& recipe) : device_(open_device(recipe.train.device)) {
  BackboneSection section = recipe.backbone;
  if (recipe.head.kind == HeadKind::zero_shot) {
    using backbones::Pooling;
    if (section.main_pooling == Pooling::automatic) section.main_pooling = Pooling::projection;
    if (section.main_pooling != Pooling::projection || !section.condition.empty())
      throw UsageError({.what = "class prompts are compared with one projected feature",
                        .where = "head.kind",
                        .expected = "with \"zero_shot\", one tower and backbone.main_pooling = \"projection\""});
  }
  towers_.push_back(std::make_unique<Tower>("main", section.main, section.main_pooling, modality_of(section.main_input), section.weights));
  if (!section.condition.empty()) {
    // A model with two towers serves as both: where nothing else is said, the condition reads what the main tower does not.
    std::optional<Modality> modality = modality_of(section.condition_input);
    if (!modality && section.condition == section.main && modality_of(towers_, 0) == Modality::image) modality = Modality::text;
    towers_.push_back(std::make_unique<Tower>("condition", section.condition, section.condition_pooling, modality, section.weights));
  }
  stores_.resize(towers_.size());
  for (const auto& tower : towers_) tower->move_to(device_);

  // Two towers of one modality share a pair: the first reads its first half, the second the other.
  InputField main = section.main_input, condition = section.condition_input;
  if (towers_.size() == 2 && modality_of(towers_, 0) == modality_of(towers_, 1)) {
    const bool pictures = modality_of(towers_, 0) == Modality::image;
    if (main == InputField::automatic) main = pictures ? InputField::image : InputField::text;
    if (condition == InputField::automatic) condition = pictures ? InputField::image_pair : InputField::text_pair;
  }
  towers_.front()->open_reader(main, section.max_length, recipe.train.packing);
  if (towers_.size() == 2) towers_.back()->open_reader(condition, section.max_length, recipe.train.packing);
}

void Model::build_experts(const Recipe& recipe) {
  std::uint64_t stream = expert_stream;
  for (const ExpertSection& section : recipe.experts) {
    for (const auto& tower : towers_) {
      const std::uint64_t own = stream--;
      if (section.tower != ExpertTower::all && tower->name() != name_of(section.tower)) continue;
      tower->add_expert(section.recipe().build(tower->backbone(), generator_of(recipe.train.seed, own)));
    }
  }
}

void Model::build_head(const Recipe& recipe, std::int64_t outputs, const std::vector<bool>& learn_absent) {
  std::vector<HeadTower> towers;
  for (std::size_t t = 0; t < towers_.size(); ++t) towers.push_back({towers_[t]->name(), towers_[t]->width(), learn_absent[t]});
  head_ = std::make_unique<Head>(recipe.head, std::move(towers), outputs, generator_of(recipe.train.seed, head_stream));
}

void Model::place() {
  for (const auto& tower : towers_) move_leaves(tower->tensors(), device_);
  move_leaves(head_->tensors(), device_);
}

void Model::begin_zero_shot(const Recipe& recipe, const std::vector<std::string>& classes) {
  const ClassEmbeddings embeddings = embed_classes(towers_.front()->checkpoint(), recipe.head, classes);
  head_->begin_with(embeddings.rows, embeddings.scale);
}

std::vector<OptimiserGroup> Model::gather(const TrainSection& section) {
  place();
  for (const auto& tower : towers_)
    for (const nn::NamedTensor& item : tower->tensors()) parameters_.add(item.name, item.tensor);
  for (const nn::NamedTensor& item : head_->tensors()) parameters_.add("head." + item.name, item.tensor);
  return flatten_into_groups(parameters_, section);
}

std::vector<bool> Model::lacking(const data::Dataset& dataset) const {
  std::vector<bool> lacking;
  for (const auto& tower : towers_)
    lacking.push_back(std::any_of(dataset.examples.begin(), dataset.examples.end(),
                                  [&](const data::Example& example) { return !tower->reader().has(example); }));
  return lacking;
}

void Model::set_store(std::size_t tower, FeatureStore store) {
  stores_[tower] = std::make_unique<FeatureStore>(std::move(store));
}

BatchReader Model::reader(OnError on_error) const {
  std::vector<BatchReader::Source> sources;
  for (std::size_t t = 0; t < towers_.size(); ++t)
    sources.push_back({&towers_[t]->reader(), stores_[t].get(), towers_[t]->name(), head_->needs(t)});
  return {std::move(sources), on_error};
}

at::Tensor Model::forward(const Batch& batch, const nn::Context& context) const {
  std::vector<TowerFeatures> features;
  for (std::size_t t = 0; t < towers_.size(); ++t) {
    const TowerBatch& part = batch.towers[t];
    at::Tensor rows;
    if (!part.stored.empty()) {
      rows = stores_[t]->features.index_select(0, at::tensor(part.stored, at::kLong)).to(device_);
    } else if (part.rows > 0) {
      rows = towers_[t]->features(part.inputs, context);
    }
    features.push_back({std::move(rows), part.row});
  }
  return (*head_)(features, context);
}

PassMacs Model::macs(const Batch& batch) const {
  PassMacs total;
  for (std::size_t t = 0; t < towers_.size(); ++t) {
    if (!batch.towers[t].stored.empty()) continue;
    for (const std::int64_t tokens : batch.towers[t].tokens) {
      const PassMacs row = towers_[t]->macs(tokens);
      total.forward += row.forward;
      total.backward += row.backward;
    }
  }
  const double head = static_cast<double>(head_->macs()) * static_cast<double>(batch.examples.size());
  return {total.forward + head, total.backward + 2 * head};
}

}  // namespace mmtune::train
