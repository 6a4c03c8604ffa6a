// Experts that free tensors of the backbone itself: `full` (any of them), `bitfit` (biases only; Ben Zaken et al. 2022, arXiv 2106.10199),
// and `linear` (none: only the task's head is trained).

#include "experts/unfrozen.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "experts/kinds.h"
#include "nn/squared_gradients.h"

namespace mmtune::experts {

namespace {

std::vector<std::string> names_of(const std::vector<nn::TensorSlot>& slots) {
  std::vector<std::string> names;
  for (const nn::TensorSlot& slot : slots) names.push_back(slot.name);
  return names;
}

class Unfrozen final : public Expert {
 public:
  Unfrozen(std::string kind, Json config, const std::vector<nn::TensorSlot>& slots)
      : kind_(std::move(kind)), config_(std::move(config)), tensors_(slots, names_of(slots)) {
    set_enabled(true);
  }
  ~Unfrozen() override { set_enabled(false); }

  std::string_view kind() const override { return kind_; }
  std::vector<nn::NamedTensor> tensors() const override { return tensors_.tensors(); }
  Json config() const override { return config_; }
  void set_enabled(bool enabled) override {
    tensors_.put(enabled);
    enabled_ = enabled;
  }
  bool enabled() const override { return enabled_; }
  bool mergeable() const override { return true; }
  void before_pass(const nn::Context& context) override {
    if (enabled_) tensors_.put_for(context);
  }
  bool squares_gradients() const override { return tensors_.squares_gradients(); }
  std::int64_t extra_macs(std::int64_t) const override { return 0; }

 private:
  std::string kind_;
  Json config_;
  UnfrozenTensors tensors_;
  bool enabled_ = false;
};

std::vector<nn::TensorSlot> slots_matching(backbones::Backbone& backbone, const std::vector<std::string>& patterns) {
  std::vector<nn::TensorSlot*> all;
  for (nn::TensorSlot& slot : backbone.sites().tensors) all.push_back(&slot);
  std::vector<nn::TensorSlot> result;
  for (const nn::TensorSlot* slot : chosen(all, patterns, "tensor")) result.push_back(*slot);
  return result;
}

class FullRecipe final : public ExpertRecipe {
 public:
  std::string_view kind() const override { return "full"; }
  std::string_view summary() const override { return "tensors of the backbone itself, trained as they are"; }
  void declare(OptionVisitor& v) override {
    v.field("targets", targets_, {.help = "tensors that are trained: names, endings of names, or patterns with *", .min_items = 1});
  }
  void read_config(const Json& config, const std::string& where) override { read(config, where, "target_tensors", targets_); }
  std::unique_ptr<Expert> build(backbones::Backbone& backbone, at::Generator) const override {
    return std::make_unique<Unfrozen>("full", Json{{"peft_type", "MMTUNE_FULL"}, {"target_tensors", targets_}},
                                      slots_matching(backbone, targets_));
  }

 private:
  std::vector<std::string> targets_ = {"*"};
};

class BitfitRecipe final : public ExpertRecipe {
 public:
  std::string_view kind() const override { return "bitfit"; }
  std::string_view summary() const override { return "the backbone's biases (Ben Zaken et al. 2022)"; }
  void declare(OptionVisitor& v) override {
    v.field("targets", targets_, {.help = "biases that are trained: names, endings of names, or patterns with *", .min_items = 1});
  }
  void read_config(const Json& config, const std::string& where) override { read(config, where, "target_tensors", targets_); }
  std::unique_ptr<Expert> build(backbones::Backbone& backbone, at::Generator) const override {
    std::vector<nn::TensorSlot> biases;
    for (const nn::TensorSlot& slot : slots_matching(backbone, targets_))
      if (slot.name.ends_with(".bias")) biases.push_back(slot);
    if (biases.empty())
      throw Error({.what = "the targets name no bias", .where = "expert.targets", .hint = "BitFit trains tensors that end in .bias"});
    return std::make_unique<Unfrozen>("bitfit", Json{{"peft_type", "MMTUNE_BITFIT"}, {"target_tensors", targets_}}, biases);
  }

 private:
  std::vector<std::string> targets_ = {"bias"};
};

class LinearRecipe final : public ExpertRecipe {
 public:
  std::string_view kind() const override { return "linear"; }
  std::string_view summary() const override { return "nothing in the backbone: only the head learns"; }
  void declare(OptionVisitor&) override {}
  void read_config(const Json&, const std::string&) override {}
  std::unique_ptr<Expert> build(backbones::Backbone&, at::Generator) const override {
    return std::make_unique<Unfrozen>("linear", Json{{"peft_type", "MMTUNE_LINEAR"}}, std::vector<nn::TensorSlot>{});
  }
};

}  // namespace

UnfrozenTensors::UnfrozenTensors(const std::vector<nn::TensorSlot>& slots, const std::vector<std::string>& names) {
  MMTUNE_ASSERT(slots.size() == names.size());
  for (std::size_t i = 0; i < slots.size(); ++i) {
    trained_.push_back({names[i], leaf(*slots[i].tensor)});
    places_.push_back({slots[i].tensor, *slots[i].tensor, slots[i].squares});
  }
}

void UnfrozenTensors::put(bool enabled) {
  for (std::size_t i = 0; i < places_.size(); ++i) *places_[i].tensor = enabled ? trained_[i].tensor : places_[i].frozen;
}

void UnfrozenTensors::put_for(const nn::Context& context) {
  for (std::size_t i = 0; i < places_.size(); ++i) {
    if (places_[i].squares != nn::SlotSquares::spread) continue;
    const at::Tensor& leaf = trained_[i].tensor;
    *places_[i].tensor = context.examples > 0 ? nn::spread(leaf, context).unsqueeze(1) : leaf;
  }
}

bool UnfrozenTensors::squares_gradients() const {
  return std::none_of(places_.begin(), places_.end(), [](const Place& place) { return place.squares == nn::SlotSquares::none; });
}

std::unique_ptr<ExpertRecipe> full_recipe() {
  return std::make_unique<FullRecipe>();
}
std::unique_ptr<ExpertRecipe> bitfit_recipe() {
  return std::make_unique<BitfitRecipe>();
}
std::unique_ptr<ExpertRecipe> linear_recipe() {
  return std::make_unique<LinearRecipe>();
}

}  // namespace mmtune::experts
