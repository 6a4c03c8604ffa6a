#include "train/tower.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <map>

#include "core/error.h"
#include "experts/joint.h"
#include "nn/split_kernel.h"
#include "nn/split_product.h"
#include "train/device.h"

namespace mmtune::train {

using backbones::Modality;
using backbones::Pooling;

namespace {

/// The tower of a model with several that is opened where none is asked for.
std::optional<Modality> chosen_tower(const io::Checkpoint& checkpoint, std::optional<Modality> modality) {
  const std::vector<Modality> towers = backbones::towers_of(checkpoint);
  return modality || towers.empty() ? modality : towers.front();
}

}  // namespace

Tower::Tower(std::string name, const std::string& model, Pooling pooling, std::optional<Modality> modality, nn::Storage storage)
    : name_(std::move(name)),
      checkpoint_(io::Checkpoint::open(io::resolve_model(model))),
      backbone_(backbones::open_backbone(checkpoint_, chosen_tower(checkpoint_, modality), storage)),
      pooling_(backbones::resolved(pooling, backbone_->info())),
      storage_(storage) {
  const backbones::BackboneInfo& info = backbone_->info();
  if (pooling_ == Pooling::pooler && !info.has_pooler)
    throw UsageError({.what = "the checkpoint has no pooler",
                      .where = "backbone." + name_ + "_pooling",
                      .expected = "\"first\" or \"mean\"",
                      .got = "\"pooler\" (" + checkpoint_.folder().string() + ")"});
  if (pooling_ == Pooling::projection && info.projected == 0)
    throw UsageError({.what = "the checkpoint has no projection into a shared space",
                      .where = "backbone." + name_ + "_pooling",
                      .expected = "a CLIP model, or another pooling",
                      .got = "\"projection\" (" + checkpoint_.folder().string() + ")"});
  const bool whole_picture = pooling_ == Pooling::all || pooling_ == Pooling::patches;
  const std::string wanted = pooling_ == Pooling::all ? "\"all\"" : "\"patches\"";
  if (whole_picture && info.modality != Modality::image)
    throw UsageError({.what = "only pictures have the same number of tokens each",
                      .where = "backbone." + name_ + "_pooling",
                      .expected = "\"first\", \"mean\" or \"pooler\"",
                      .got = wanted + " (" + checkpoint_.folder().string() + ")"});
  if (whole_picture && !info.has_class_token)
    throw UsageError({.what = "the backbone merges its tokens; their places are lost",
                      .where = "backbone." + name_ + "_pooling",
                      .expected = "\"pooler\" or \"mean\"",
                      .got = wanted + " (" + checkpoint_.folder().string() + ")"});
  if (pooling_ == Pooling::first && !info.has_class_token)
    throw UsageError({.what = "the backbone has no class token",
                      .where = "backbone." + name_ + "_pooling",
                      .expected = "\"pooler\" or \"mean\"",
                      .got = "\"first\" (" + checkpoint_.folder().string() + ")"});
}

void Tower::move_to(at::Device device) {
  device_ = device;
  backbone_->move_to(device);
}

void Tower::open_reader(const ReaderOptions& options) {
  reader_ = std::make_unique<InputReader>(checkpoint_, backbone_->info(), options);
  reader_->pin_batches(!device_.is_cpu());
}

void Tower::add_expert(std::unique_ptr<experts::Expert> expert) {
  experts_.push_back(std::move(expert));
  // An expert that was trained before changes the features even where nothing of it learns: they are not those of the backbone alone.
  trainable_ = std::any_of(experts_.begin(), experts_.end(), [](const auto& one) { return !one->tensors().empty(); });
  const auto layers = static_cast<double>(std::max<std::int64_t>(backbone_->info().layers, 1));
  std::optional<std::int64_t> lowest;
  for (const auto& one : experts_) {
    if (one->beside_backbone()) continue;
    for (const nn::NamedTensor& item : one->tensors())
      lowest = std::min(lowest.value_or(backbone_->info().layers), backbone_->layer_of(item.name));
  }
  if (lowest) backward_share_ = std::clamp((layers - static_cast<double>(*lowest)) / layers, 0.0, 1.0);
}

std::vector<nn::NamedTensor> Tower::tensors() const {
  std::vector<nn::NamedTensor> all;
  std::map<std::string, int, std::less<>> seen;
  for (const auto& expert : experts_) {
    const int number = ++seen[std::string(expert->kind())];
    std::string prefix = name_ + "." + std::string(expert->kind()) + ".";
    if (number > 1) prefix += std::to_string(number) + ".";
    for (const nn::NamedTensor& item : expert->tensors())
      if (item.tensor.requires_grad()) all.push_back({prefix + item.name, item.tensor});
  }
  return all;
}

const experts::Expert* Tower::conditional() const {
  for (const auto& expert : experts_)
    if (expert->conditional()) return expert.get();
  return nullptr;
}

const experts::JointExpert* Tower::joint() const {
  for (const auto& expert : experts_)
    if (const auto* const joint = dynamic_cast<const experts::JointExpert*>(expert.get())) return joint;
  return nullptr;
}

std::int64_t Tower::width() const {
  const backbones::BackboneInfo& info = backbone_->info();
  if (pooling_ == Pooling::projection) return info.projected;
  if (pooling_ == Pooling::pooler && info.pooled > 0) return info.pooled;
  return pooling_ == Pooling::all ? info.max_length * info.width : info.width;
}

bool Tower::has_side_network() const {
  return std::any_of(experts_.begin(), experts_.end(), [](const auto& expert) { return expert->beside_backbone(); });
}

bool Tower::reads_first() const {
  if (has_side_network()) return false;
  return pooling_ == Pooling::first || pooling_ == Pooling::pooler || pooling_ == Pooling::projection;
}

at::Tensor Tower::features(const backbones::ModelInputs& inputs, const nn::Context& context) const {
  nn::Context own = context;
  own.matmul_precision = precision_;
  own.read = reads_first() ? nn::ReadRows::first : nn::ReadRows::all;
  // Both keep something of a block for what comes behind it: a side network its state, a router its scores for the loss.
  own.recompute = context.recompute && !has_side_network() && conditional() == nullptr;
  const at::AutoGradMode gradients(at::GradMode::is_enabled() && trainable());
  const at::Tensor rows = pooled(backbone_->forward(moved_to(inputs, device_), own));
  const std::int64_t frames = reader_->frames();
  return frames > 1 ? rows.view({-1, frames, rows.size(1)}).amax(1) : rows;
}

at::Tensor Tower::taught(const backbones::ModelInputs& inputs, const std::vector<std::int64_t>& rows, const at::Tensor& said,
                         const at::Tensor& learned, const nn::Context& context) const {
  nn::Context own = context;
  own.matmul_precision = precision_;
  const at::AutoGradMode gradients(at::GradMode::is_enabled() && trainable());
  return writer()->taught(moved_to(inputs, device_), rows, said, learned, own);
}

std::string Tower::describe() const {
  return "pooled by " + std::to_string(static_cast<int>(pooling_)) + ", weights " + std::to_string(static_cast<int>(storage_)) + ", " +
         (device_.is_cpu() ? "" : "on a GPU, ") +
         (precision_ == nn::MatmulPrecision::high && nn::split_kernel() != nullptr ? "split products, " : "") +
         (precision_ == nn::MatmulPrecision::medium && nn::multiplies_bfloat16() ? "rounded products, " : "") + reader_->describe();
}

PassMacs Tower::macs(std::int64_t tokens, std::int64_t patches) const {
  const auto forward = static_cast<double>(backbone_->macs(tokens, reads_first()) + backbone_->picture_macs(patches));
  PassMacs total{.forward = forward};
  total.backward = static_cast<double>(backbone_->block_macs(tokens, reads_first())) * backward_share_;
  for (const auto& expert : experts_) {
    if (expert->kind() == "full") total.backward += forward;  // gradients of the weights, beside those of their inputs
    const auto extra = static_cast<double>(expert->extra_macs(backbone_->rows_of(tokens)));
    total.forward += extra;
    total.backward += 2 * extra;
  }
  return total;
}

}  // namespace mmtune::train
