#include "train/model.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>

#include "core/error.h"
#include "core/hash.h"
#include "experts/joint.h"
#include "train/device.h"
#include "train/matching_head.h"
#include "train/task.h"
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

}  // namespace

Model::Model(const Recipe& recipe) : sequences_(answers_in_sequences(recipe.task)), device_(open_device(recipe.train.device)) {
  BackboneSection section = recipe.backbone;
  if (recipe.head.kind == HeadKind::zero_shot) {
    using backbones::Pooling;
    if (section.main_pooling == Pooling::automatic) section.main_pooling = Pooling::projection;
    if (section.main_pooling != Pooling::projection || !section.condition.empty())
      throw UsageError({.what = "class prompts are compared with one projected feature",
                        .where = "head.kind",
                        .expected = "with \"zero_shot\", one tower and backbone.main_pooling = \"projection\""});
  }
  open_towers(section);
  stores_.resize(towers_.size());
  for (const auto& tower : towers_) {
    tower->move_to(device_);
    tower->compute_with(section.matmul_precision);
  }
  const bool pair = recipe.task == "pair";
  if (pair && modality_of(towers_, 0) != Modality::image && modality_of(towers_, 0) != Modality::text_image)
    throw UsageError({.what = "the main tower of a pair of pictures must read pictures",
                      .where = "backbone.main",
                      .got = section.main + ", which reads " + std::string(backbones::name_of(modality_of(towers_, 0)))});
  std::vector<InputField> fields = {section.main_input};
  if (towers_.size() > 1) fields.push_back(section.condition_input);
  for (const FurtherTower& one : section.further) fields.push_back(one.input);
  if (!pair) share_pairs(fields);
  ReaderOptions options{.max_length = section.max_length,
                        .max_seconds = section.max_seconds,
                        .other_rates = recipe.data.other_rates,
                        .frames = section.frames,
                        .packing = recipe.train.packing};
  for (std::size_t t = 0; t < towers_.size(); ++t) {
    options.field = fields[t];
    towers_[t]->open_reader(options);
  }
  if (!pair) return;
  options.field = InputField::image_pair;
  pair_reader_ = std::make_unique<InputReader>(towers_.front()->checkpoint(), towers_.front()->backbone().info(), options);
  pair_reader_->pin_batches(!device_.is_cpu());
}

void Model::open_towers(const BackboneSection& section) {
  towers_.push_back(std::make_unique<Tower>("main", section.main, section.main_pooling, modality_of(section.main_input), section.weights));
  if (section.condition.empty()) return;
  // A model with two towers serves as both: where nothing else is said, the condition reads what the main tower does not.
  std::optional<Modality> modality = modality_of(section.condition_input);
  if (!modality && section.condition == section.main && modality_of(towers_, 0) == Modality::image) modality = Modality::text;
  towers_.push_back(std::make_unique<Tower>("condition", section.condition, section.condition_pooling, modality, section.weights));
  for (const FurtherTower& one : section.further)
    towers_.push_back(std::make_unique<Tower>("condition" + std::to_string(towers_.size()), one.model, one.pooling, modality_of(one.input),
                                              section.weights));
}

/// Two towers of one modality share a pair: the first reads its first half, the other the second.
void Model::share_pairs(std::vector<InputField>& fields) const {
  const std::vector<InputField> asked = fields;
  for (std::size_t t = 0; t < fields.size(); ++t) {
    const Modality modality = modality_of(towers_, t);
    if (asked[t] != InputField::automatic || (modality != Modality::image && modality != Modality::text)) continue;
    std::size_t before = 0, all = 0;
    for (std::size_t other = 0; other < fields.size(); ++other) {
      if (modality_of(towers_, other) != modality || asked[other] == InputField::video) continue;
      before += other < t ? 1 : 0;
      ++all;
    }
    if (all < 2) continue;
    if (before > 1)
      throw UsageError({.what = "more than two towers of one modality: which fields do they read?",
                        .where = towers_[t]->checkpoint().folder().string(),
                        .expected = "backbone.main_input, condition_input or further's input to be given"});
    const bool pictures = modality == Modality::image;
    if (before == 0) fields[t] = pictures ? InputField::image : InputField::text;
    if (before == 1) fields[t] = pictures ? InputField::image_pair : InputField::text_pair;
  }
}

void Model::refuse_video(const ExpertSection& section) const {
  // A joint expert passes rows of both towers together, and a video is several of them.
  const bool any = section.method == "pmf" &&
                   std::any_of(towers_.begin(), towers_.end(), [](const auto& tower) { return tower->reader().reads_video(); });
  if (!any && !towers_.front()->reader().reads_video()) return;
  throw UsageError({.what = any ? "this kind of expert reads no videos" : "a video is a complementary modality for this kind of expert",
                    .where = "expert.method = \"" + section.method + "\"",
                    .hint = any ? "" : "make the picture tower backbone.condition, with condition_input = \"video\""});
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
    if (conditional) refuse_video(section);
    if (conditional && (recipe.task == "pair" || recipe.task == "retrieve"))
      throw UsageError({.what = "this kind of expert makes a feature of a text or picture together with another",
                        .where = "expert.method = \"" + section.method + "\"",
                        .expected = "a task that does not compare features of single ones",
                        .got = "task = \"" + recipe.task + "\""});
    for (const auto& tower : towers_) {
      const std::uint64_t own = stream--;
      const bool main = tower == towers_.front();
      if (section.tower != ExpertTower::all && main != (section.tower == ExpertTower::main)) continue;
      if (conditional && !main) continue;
      at::Generator generator = generator_of(recipe.train.seed, own);
      if (section.recipe().needs_fingerprint()) {
        tower->add_expert(section.recipe().build_on(tower->backbone(), io::backbone_fingerprint(tower->checkpoint()), generator));
        continue;
      }
      tower->add_expert(conditional ? section.recipe().build_conditioned(tower->backbone(), complementary_widths(), generator)
                                    : section.recipe().build(tower->backbone(), generator));
    }
  }
}

std::vector<std::int64_t> Model::complementary_widths() const {
  std::vector<std::int64_t> widths;
  for (std::size_t t = 1; t < towers_.size(); ++t) widths.push_back(towers_[t]->width());
  return widths;
}

void Model::set_wording(std::shared_ptr<const Wording> wording) {
  wording_ = std::move(wording);
  towers_.front()->read_sources([own = wording_](const data::Example& example) { return own->source(example); }, wording_->source_words());
}

void Model::build_head(const Recipe& recipe, std::int64_t outputs, const std::vector<bool>& learn_absent) {
  if (sequences_) {
    learn_absent_ = learn_absent;
    return;
  }
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
  if (head_) move_leaves(head_->tensors(), device_);
}

void Model::begin_zero_shot(const Recipe& recipe, const std::vector<std::string>& classes) {
  const ClassEmbeddings embeddings = embed_classes(towers_.front()->checkpoint(), recipe.head, classes);
  head_->begin_with(embeddings.rows, embeddings.scale);
}

bool Model::begin_matching(std::int64_t outputs) {
  const Tower& tower = *towers_.front();
  if (towers_.size() > 1 || head_->kind() != HeadKind::linear || tower.pooling() != backbones::Pooling::pooler) return false;
  const std::optional<MatchingHead> known = matching_head_of(tower.checkpoint(), tower.width());
  if (known && outputs == 2) {
    head_->begin_with_map(at::cat({known->weight, known->matching_weight}), at::cat({known->bias, known->matching_bias}));
  } else if (known) {
    head_->begin_with_map(known->weight, known->bias);
  }
  return known.has_value();
}

std::vector<OptimiserGroup> Model::gather(const TrainSection& section) {
  place();
  for (const auto& tower : towers_)
    for (const nn::NamedTensor& item : tower->tensors()) parameters_.add(item.name, item.tensor);
  if (head_)
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

BatchReader Model::reader(OnError on_error, bool by_example, bool teach) const {
  std::vector<BatchReader::Source> sources;
  for (std::size_t t = 0; t < towers_.size(); ++t)
    sources.push_back({&towers_[t]->reader(), stores_[t].get(), towers_[t]->name(), needs(t),
                       by_example || joint() != nullptr || (t == 0 && conditional())});
  if (pair_reader_) sources.push_back({pair_reader_.get(), nullptr, "main (image_pair)", true, by_example});
  BatchReader reader(std::move(sources), on_error);
  if (wording_ && teach)
    reader.teach({[own = wording_](const data::Example& example) { return own->taught(example); }, wording_->tokens().padding});
  return reader;
}

bool Model::needs(std::size_t tower) const {
  if (joint() != nullptr) return true;
  if (sequences_) return tower == 0;
  if (tower < head_->towers() && head_->needs(tower)) return true;
  return tower > 0 && conditional() && !learn_absent_[tower];
}

/// Hands the main tower's rows the features of their example's other modalities.
void Model::condition(const Batch& batch, const std::vector<TowerFeatures>& features, nn::Context& context) const {
  const TowerBatch& main = batch.towers.front();
  const auto others = static_cast<std::int64_t>(towers_.size()) - 1;
  std::vector<at::Tensor> parts;
  const at::Tensor there = at::ones({main.rows, others}, at::kBool);
  for (std::int64_t other = 0; other < others; ++other) {
    const TowerFeatures& own = features[static_cast<std::size_t>(other) + 1];
    const at::Tensor index = at::zeros({main.rows}, at::kLong);
    for (std::size_t example = 0; example < main.row.size(); ++example) {
      if (main.row[example] < 0) continue;
      index.data_ptr<std::int64_t>()[main.row[example]] = std::max<std::int64_t>(own.row[example], 0);
      there.data_ptr<bool>()[main.row[example] * others + other] = own.row[example] >= 0;
    }
    const std::int64_t width = towers_[static_cast<std::size_t>(other) + 1]->width();
    parts.push_back(own.rows.defined() ? own.rows.index_select(0, index.to(own.rows.device()))
                                       : at::zeros({main.rows, width}, at::TensorOptions(device_)));
  }
  context.complementary = parts.size() == 1 ? parts.front() : at::cat(parts, 1);
  if (!there.all().item<bool>()) context.complementary_there = (others == 1 ? there.squeeze(1) : there).to(device_);
}

void Model::forward_jointly(const Batch& batch, const nn::Context& context, std::vector<TowerFeatures>& features) const {
  const backbones::ModelInputs main = moved_to(batch.towers[0].inputs, device_), other = moved_to(batch.towers[1].inputs, device_);
  nn::Context own = context;
  own.matmul_precision = towers_[0]->precision();
  const experts::JointExpert::Outputs outputs = joint()->forward({towers_[0]->backbone(), main}, {towers_[1]->backbone(), other}, own);
  features[0] = {towers_[0]->pooled(outputs.main), batch.towers[0].row};
  features[1] = {towers_[1]->pooled(outputs.other), batch.towers[1].row};
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
  if (sequences_) {
    const TowerBatch& part = batch.towers.front();
    nn::Context own = context;
    if (context.examples > 0) own.examples = part.rows;
    return towers_.front()->taught(part.inputs, part.row, batch.said, batch.learned, own);
  }
  const auto compute = [&](std::size_t t, const nn::Context& own) {
    features[t] = {this->features(t, batch.towers[t], own), batch.towers[t].row};
  };
  if (joint() != nullptr) {
    forward_jointly(batch, context, features);
  } else if (conditional()) {
    for (std::size_t t = 1; t < towers_.size(); ++t) compute(t, context);
    nn::Context own = context;
    condition(batch, features, own);
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

PassMacs Model::joint_macs(std::int64_t tokens) const {
  if (joint() == nullptr) return {};
  const backbones::Backbone& other = towers_[1]->backbone();
  const double share = static_cast<double>(joint()->other_blocks()) / static_cast<double>(std::max<std::int64_t>(other.info().layers, 1));
  const auto extra = static_cast<double>(joint()->other_macs(other.rows_of(tokens)));
  return {extra, 2 * extra + share * static_cast<double>(other.block_macs(tokens, false))};
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
  if (joint() != nullptr) {
    for (const std::int64_t tokens : batch.towers[1].tokens) {
      const PassMacs row = joint_macs(tokens);
      total.forward += row.forward;
      total.backward += row.backward;
    }
  }
  if (!head_) return total;
  const double head = static_cast<double>(head_->macs()) * static_cast<double>(batch.examples.size());
  return {total.forward + head, total.backward + 2 * head};
}

}  // namespace mmtune::train
