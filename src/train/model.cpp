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
  for (const auto& tower : towers_) {
    tower->move_to(device_);
    tower->compute_with(section.matmul_precision);
  }

  // Two towers of one modality share a pair: the first reads its first half, the second the other.
  InputField main = section.main_input, condition = section.condition_input;
  const bool pair = recipe.task == "pair";
  if (pair && modality_of(towers_, 0) != Modality::image && modality_of(towers_, 0) != Modality::text_image)
    throw UsageError({.what = "the main tower of a pair of pictures must read pictures",
                      .where = "backbone.main",
                      .got = section.main + ", which reads " + std::string(backbones::name_of(modality_of(towers_, 0)))});
  const bool shared = !pair && towers_.size() == 2 && modality_of(towers_, 0) == modality_of(towers_, 1);
  if (shared && (modality_of(towers_, 0) == Modality::image || modality_of(towers_, 0) == Modality::text)) {
    const bool pictures = modality_of(towers_, 0) == Modality::image;
    if (main == InputField::automatic) main = pictures ? InputField::image : InputField::text;
    if (condition == InputField::automatic) condition = pictures ? InputField::image_pair : InputField::text_pair;
  }
  ReaderOptions options{.field = main,
                        .max_length = section.max_length,
                        .max_seconds = section.max_seconds,
                        .other_rates = recipe.data.other_rates,
                        .packing = recipe.train.packing};
  towers_.front()->open_reader(options);
  if (pair) {
    options.field = InputField::image_pair;
    pair_reader_ = std::make_unique<InputReader>(towers_.front()->checkpoint(), towers_.front()->backbone().info(), options);
    pair_reader_->pin_batches(!device_.is_cpu());
  }
  options.field = condition;
  if (towers_.size() == 2) towers_.back()->open_reader(options);
}

void Model::build_experts(const Recipe& recipe) {
  std::uint64_t stream = expert_stream;
  for (const ExpertSection& section : recipe.experts) {
    const bool conditional = section.recipe().conditional();
    if (conditional && (towers_.size() < 2 || section.tower == ExpertTower::condition))
      throw UsageError({.what = "this kind of expert conditions the main tower on a second one",
                        .where = "expert.method = \"" + section.method + "\"",
                        .expected = towers_.size() < 2 ? "a second tower" : "tower = \"main\"",
                        .hint = towers_.size() < 2 ? "name it in backbone.condition" : ""});
    for (const auto& tower : towers_) {
      const std::uint64_t own = stream--;
      if (section.tower != ExpertTower::all && tower->name() != name_of(section.tower)) continue;
      if (conditional && tower != towers_.front()) continue;
      at::Generator generator = generator_of(recipe.train.seed, own);
      if (section.recipe().needs_fingerprint()) {
        tower->add_expert(section.recipe().build_on(tower->backbone(), io::backbone_fingerprint(tower->checkpoint()), generator));
        continue;
      }
      tower->add_expert(conditional ? section.recipe().build_conditioned(tower->backbone(), towers_.back()->width(), generator)
                                    : section.recipe().build(tower->backbone(), generator));
    }
  }
}

void Model::build_head(const Recipe& recipe, std::int64_t outputs, const std::vector<bool>& learn_absent) {
  HeadSection section = recipe.head;
  if (section.fusion == Fusion::automatic) section.fusion = conditional() ? Fusion::main : Fusion::concat;
  if (pair_reader_ && (conditional() || section.fusion == Fusion::main || section.fusion == Fusion::mean_logits))
    throw UsageError({.what = "the features of a pair are read side by side",
                      .where = "task = \"pair\"",
                      .expected = "fusion = \"concat\" and an expert that conditions no tower"});
  if ((section.kind == HeadKind::similarity) != (recipe.task == "retrieve" && towers_.size() == 2))
    throw UsageError({.what = "two towers are compared, one is read",
                      .where = "head.kind",
                      .expected = "\"similarity\" for task = \"retrieve\" with two towers, and nowhere else"});
  const std::size_t read = section.fusion == Fusion::main ? 1 : towers_.size();
  std::vector<HeadTower> towers;
  for (std::size_t t = 0; t < read; ++t) {
    const bool projected = towers_[t]->pooling() == backbones::Pooling::projection;
    towers.push_back({towers_[t]->name(), towers_[t]->width(), learn_absent[t], projected});
  }
  if (pair_reader_) towers.push_back({"main_pair", towers_.front()->width()});
  learn_absent_ = learn_absent;
  head_ = std::make_unique<Head>(section, std::move(towers), outputs, generator_of(recipe.train.seed, head_stream));
}

void Model::place() {
  for (const auto& tower : towers_)
    for (const auto& expert : tower->experts()) move_leaves(expert->tensors(), device_);
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
  TrainSection own = section;
  for (const experts::Interpolated* one : interpolated())
    if (one->options().coefficient_lr && one->learns_coefficients() && own.groups.size() == section.groups.size())
      own.groups.push_back({.pattern = "coefficients", .lr_scale = *one->options().coefficient_lr / section.lr, .weight_decay = 0.0});
  return flatten_into_groups(parameters_, own);
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

BatchReader Model::reader(OnError on_error, bool by_example) const {
  std::vector<BatchReader::Source> sources;
  for (std::size_t t = 0; t < towers_.size(); ++t)
    sources.push_back({&towers_[t]->reader(), stores_[t].get(), towers_[t]->name(), needs(t), by_example || (t == 0 && conditional())});
  if (pair_reader_) sources.push_back({pair_reader_.get(), nullptr, "main (image_pair)", true, by_example});
  return {std::move(sources), on_error};
}

bool Model::needs(std::size_t tower) const {
  if (tower < head_->towers() && head_->needs(tower)) return true;
  return tower > 0 && conditional() && !learn_absent_[tower];
}

/// Hands the main tower's rows the feature of their example's other modality.
void Model::condition(const Batch& batch, const at::Tensor& features, nn::Context& context) const {
  const TowerBatch &main = batch.towers.front(), &other = batch.towers.back();
  at::Tensor index = at::zeros({main.rows}, at::kLong), there = at::ones({main.rows}, at::kBool);
  for (std::size_t example = 0; example < main.row.size(); ++example) {
    if (main.row[example] < 0) continue;
    const std::int64_t row = other.row[example];
    index.data_ptr<std::int64_t>()[main.row[example]] = std::max<std::int64_t>(row, 0);
    there.data_ptr<bool>()[main.row[example]] = row >= 0;
  }
  context.complementary = features.defined() ? features.index_select(0, index.to(features.device()))
                                             : at::zeros({main.rows, towers_.back()->width()}, at::TensorOptions(device_));
  if (!there.all().item<bool>()) context.complementary_there = there.to(device_);
}

std::vector<experts::Interpolated*> Model::interpolated() const {
  std::vector<experts::Interpolated*> found;
  for (const auto& tower : towers_)
    for (const auto& expert : tower->experts())
      if (auto* const one = dynamic_cast<experts::Interpolated*>(expert.get())) found.push_back(one);
  return found;
}

void Model::before_pass() {
  for (const auto& tower : towers_)
    for (const auto& expert : tower->experts()) expert->before_pass({});
}

void Model::after_backward() {
  for (const auto& tower : towers_)
    for (const auto& expert : tower->experts()) expert->after_backward();
}

at::Tensor Model::features(std::size_t tower, const TowerBatch& part, const nn::Context& context) const {
  if (!part.stored.empty()) return stores_[tower]->features.index_select(0, at::tensor(part.stored, at::kLong)).to(device_);
  if (part.rows == 0) return {};
  nn::Context own = context;
  if (context.examples > 0) own.examples = part.rows;
  return towers_[tower]->features(part.inputs, own);
}

at::Tensor Model::forward(const Batch& batch, const nn::Context& context) const {
  std::vector<TowerFeatures> features(towers_.size());
  for (std::size_t t = 0; t < towers_.size(); ++t) {
    nn::Context own = context;
    if (context.examples > 0) own.examples = batch.towers[t].rows;
    for (const auto& expert : towers_[t]->experts()) expert->before_pass(own);
  }
  const auto compute = [&](std::size_t t, const nn::Context& own) {
    features[t] = {this->features(t, batch.towers[t], own), batch.towers[t].row};
  };
  if (conditional()) {
    compute(1, context);
    nn::Context own = context;
    condition(batch, features[1].rows, own);
    compute(0, own);
  } else {
    for (std::size_t t = 0; t < towers_.size(); ++t) compute(t, context);
  }
  if (pair_reader_) features.push_back({this->features(0, batch.towers.back(), context), batch.towers.back().row});
  features.resize(head_->towers());
  return (*head_)(features, context);
}

at::Tensor Model::auxiliary_loss(const Batch& batch) const {
  at::Tensor sum;
  for (std::size_t t = 0; t < towers_.size(); ++t) {
    if (batch.towers[t].rows == 0) continue;  // no forward pass was made
    for (const auto& expert : towers_[t]->experts()) {
      const at::Tensor loss = expert->auxiliary_loss();
      if (loss.defined()) sum = sum.defined() ? sum + loss : loss;
    }
  }
  return sum;
}

PassMacs Model::macs(const Batch& batch) const {
  PassMacs total;
  for (std::size_t t = 0; t < batch.towers.size(); ++t) {
    if (!batch.towers[t].stored.empty()) continue;
    const TowerBatch& part = batch.towers[t];
    for (std::size_t i = 0; i < part.tokens.size(); ++i) {
      // The second picture of a pair comes last.
      const Tower& tower = *towers_[t < towers_.size() ? t : 0];
      const PassMacs row = tower.macs(part.tokens[i], part.patches.empty() ? 0 : part.patches[i]);
      total.forward += row.forward;
      total.backward += row.backward;
    }
  }
  const double head = static_cast<double>(head_->macs()) * static_cast<double>(batch.examples.size());
  return {total.forward + head, total.backward + 2 * head};
}

}  // namespace mmtune::train
