#include "train/tower.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "core/error.h"

namespace mmtune::train {

using backbones::Modality;
using backbones::Pooling;

Tower::Tower(std::string name, const std::string& model, Pooling pooling)
    : name_(std::move(name)),
      checkpoint_(io::Checkpoint::open(io::resolve_model(model))),
      backbone_(backbones::open_backbone(checkpoint_)),
      pooling_(pooling) {
  const backbones::BackboneInfo& info = backbone_->info();
  if (pooling_ == Pooling::automatic) pooling_ = info.modality == Modality::image ? Pooling::first : Pooling::mean;
  if (pooling_ == Pooling::pooler && !info.has_pooler)
    throw UsageError({.what = "the checkpoint has no pooler",
                      .where = "backbone." + name_ + "_pooling",
                      .expected = "\"first\" or \"mean\"",
                      .got = "\"pooler\" (" + checkpoint_.folder().string() + ")"});
  if (pooling_ == Pooling::all && info.modality != Modality::image)
    throw UsageError({.what = "only pictures have the same number of tokens each",
                      .where = "backbone." + name_ + "_pooling",
                      .expected = "\"first\", \"mean\" or \"pooler\"",
                      .got = "\"all\" (" + checkpoint_.folder().string() + ")"});
}

void Tower::open_reader(InputField field, std::optional<std::int64_t> max_length, Packing packing) {
  reader_ = std::make_unique<InputReader>(checkpoint_, backbone_->info(), field, max_length, packing);
}

void Tower::add_expert(std::unique_ptr<experts::Expert> expert) {
  experts_.push_back(std::move(expert));
  const std::vector<nn::NamedTensor> trained = tensors();
  trainable_ = !trained.empty();
  const auto layers = static_cast<double>(std::max<std::int64_t>(backbone_->info().layers, 1));
  if (trainable_) backward_share_ = std::clamp((layers - static_cast<double>(lowest_layer(trained))) / layers, 0.0, 1.0);
}

std::vector<nn::NamedTensor> Tower::tensors() const {
  std::vector<nn::NamedTensor> all;
  std::map<std::string, int, std::less<>> seen;
  for (const auto& expert : experts_) {
    const int number = ++seen[std::string(expert->kind())];
    std::string prefix = name_ + "." + std::string(expert->kind()) + ".";
    if (number > 1) prefix += std::to_string(number) + ".";
    for (const nn::NamedTensor& item : expert->tensors()) all.push_back({prefix + item.name, item.tensor});
  }
  return all;
}

std::int64_t Tower::width() const {
  const backbones::BackboneInfo& info = backbone_->info();
  return pooling_ == Pooling::all ? info.max_length * info.width : info.width;
}

bool Tower::reads_first() const {
  return pooling_ == Pooling::first || pooling_ == Pooling::pooler;
}

at::Tensor Tower::features(const backbones::ModelInputs& inputs, const nn::Context& context) const {
  nn::Context own = context;
  own.read = reads_first() ? nn::ReadRows::first : nn::ReadRows::all;
  const at::AutoGradMode gradients(at::GradMode::is_enabled() && trainable());
  return backbones::pool(backbone_->forward(inputs, own), pooling_, backbone_->info().modality);
}

std::string Tower::describe() const {
  return "pooling " + std::to_string(static_cast<int>(pooling_)) + ", " + reader_->describe();
}

PassMacs Tower::macs(std::int64_t tokens) const {
  const auto forward = static_cast<double>(backbone_->macs(tokens, reads_first()));
  PassMacs total{.forward = forward};
  total.backward = forward * backward_share_;
  for (const auto& expert : experts_) {
    if (expert->kind() == "full") total.backward += forward;  // gradients of the weights, beside those of their inputs
    const auto extra = static_cast<double>(expert->extra_macs(tokens));
    total.forward += extra;
    total.backward += 2 * extra;
  }
  return total;
}

std::int64_t lowest_layer(const std::vector<nn::NamedTensor>& tensors) {
  std::int64_t lowest = -1;
  for (const nn::NamedTensor& item : tensors) {
    const std::size_t found = item.name.find("layer.");
    std::int64_t layer = 0;
    if (found != std::string::npos) {
      const char* begin = item.name.data() + found + 6;
      if (std::from_chars(begin, item.name.data() + item.name.size(), layer).ec != std::errc()) layer = 0;
    }
    lowest = lowest < 0 ? layer : std::min(lowest, layer);
  }
  return std::max<std::int64_t>(lowest, 0);
}

}  // namespace mmtune::train
