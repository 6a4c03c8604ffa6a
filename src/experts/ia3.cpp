// IA³ (Liu et al. 2022, arXiv 2205.05638): learned factors on the outputs of linear maps, and on the inputs of feed-forward ones. Tensor
// names and configuration keys are PEFT's.

#include <ATen/ATen.h>

#include <algorithm>

#include "experts/kinds.h"

namespace mmtune::experts {

namespace {

struct Options {
  std::vector<std::string> targets = {"key", "value", "output.dense"};
  std::vector<std::string> feed_forward = {"output.dense"};
};

class Ia3 final : public Expert {
 public:
  Ia3(const Options& options, const backbones::Backbone& backbone, std::vector<nn::WeightSite*> sites)
      : options_(options), backbone_(&backbone), sites_(std::move(sites)) {
    for (const nn::WeightSite* site : sites_) {
      const bool input = std::any_of(options_.feed_forward.begin(), options_.feed_forward.end(),
                                     [&](const std::string& pattern) { return nn::matches(site->name, pattern); });
      const at::Tensor factors = leaf(input ? at::ones({1, site->in}) : at::ones({site->out, 1}));
      scalings_.push_back(std::make_unique<nn::Scaling>(nn::Scaling{factors, input}));
    }
    set_enabled(true);
  }
  ~Ia3() override { set_enabled(false); }

  std::string_view kind() const override { return "ia3"; }

  std::vector<nn::NamedTensor> tensors() const override {
    std::vector<nn::NamedTensor> named;
    for (std::size_t i = 0; i < sites_.size(); ++i) named.push_back({sites_[i]->name + ".ia3_l", scalings_[i]->factors});
    return named;
  }

  Json config() const override {
    return {{"peft_type", "IA3"},      {"target_modules", options_.targets}, {"feedforward_modules", options_.feed_forward},
            {"fan_in_fan_out", false}, {"init_ia3_weights", true},           {"inference_mode", true}};
  }

  void set_enabled(bool enabled) override {
    if (enabled == enabled_) return;
    for (std::size_t i = 0; i < sites_.size(); ++i) attach(sites_[i]->scalings, scalings_[i].get(), enabled);
    enabled_ = enabled;
  }
  bool enabled() const override { return enabled_; }

  std::int64_t extra_macs(std::int64_t tokens) const override {
    std::int64_t macs = 0;
    for (std::size_t i = 0; i < sites_.size(); ++i)
      macs += backbone_->rows_at(sites_[i]->name, sites_[i]->layer, tokens) * scalings_[i]->factors.numel();
    return macs;
  }

 private:
  Options options_;
  const backbones::Backbone* backbone_;
  std::vector<nn::WeightSite*> sites_;
  std::vector<std::unique_ptr<nn::Scaling>> scalings_;
  bool enabled_ = false;
};

class Recipe final : public ExpertRecipe {
 public:
  std::string_view kind() const override { return "ia3"; }
  std::string_view summary() const override { return "learned factors on keys, values and feed-forward activations (Liu et al. 2022)"; }

  void declare(OptionVisitor& v) override {
    v.field("targets", options_.targets,
            {.help = "linear maps that get factors: names, endings of names, or patterns with *", .min_items = 1});
    v.field("feed_forward", options_.feed_forward, {.help = "those of the targets whose input is scaled instead of their output"});
  }

  void read_config(const Json& config, const std::string& where) override {
    read(config, where, "target_modules", options_.targets);
    read(config, where, "feedforward_modules", options_.feed_forward);
    for (const char* key : {"fan_in_fan_out", "modules_to_save", "exclude_modules"}) refuse_unless_plain(config, where, key, false);
  }

  std::unique_ptr<Expert> build(backbones::Backbone& backbone, at::Generator) const override {
    Options own = options_;
    own.targets = spelt(backbone.sites().weights, own.targets);
    own.feed_forward = spelt(backbone.sites().weights, own.feed_forward);
    return std::make_unique<Ia3>(own, backbone, chosen(backbone.sites().weights, options_.targets, "linear map"));
  }

 private:
  Options options_;
};

}  // namespace

std::unique_ptr<ExpertRecipe> ia3_recipe() {
  return std::make_unique<Recipe>();
}

}  // namespace mmtune::experts
