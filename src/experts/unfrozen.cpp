// Experts that free tensors of the backbone itself: `full` (any of them), `bitfit` (biases only; Ben Zaken et al. 2022, arXiv 2106.10199),
// and `linear` (none: only the task's head is trained).

#include <ATen/ATen.h>

#include "experts/kinds.h"

namespace mmtune::experts {

namespace {

/// Trainable copies in the place of chosen tensors; disabling puts the frozen ones back.
class Unfrozen final : public Expert {
 public:
  Unfrozen(std::string kind, Json config, const std::vector<nn::TensorSlot>& slots) : kind_(std::move(kind)), config_(std::move(config)) {
    for (const nn::TensorSlot& slot : slots) entries_.push_back({slot.name, slot.tensor, *slot.tensor, leaf(*slot.tensor)});
    set_enabled(true);
  }
  ~Unfrozen() override { set_enabled(false); }

  std::string_view kind() const override { return kind_; }
  std::vector<nn::NamedTensor> tensors() const override {
    std::vector<nn::NamedTensor> named;
    for (const Entry& entry : entries_) named.push_back({entry.name, entry.trained});
    return named;
  }
  Json config() const override { return config_; }
  void set_enabled(bool enabled) override {
    for (Entry& entry : entries_) *entry.place = enabled ? entry.trained : entry.frozen;
    enabled_ = enabled;
  }
  bool enabled() const override { return enabled_; }
  std::int64_t extra_macs(std::int64_t) const override { return 0; }

 private:
  struct Entry {
    std::string name;
    at::Tensor* place;
    at::Tensor frozen, trained;
  };
  std::string kind_;
  Json config_;
  std::vector<Entry> entries_;
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
