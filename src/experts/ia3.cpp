// IA³ (Liu et al. 2022, arXiv 2205.05638): learned factors on the outputs of linear maps, and on the inputs of feed-forward ones. Tensor
// names and configuration keys are PEFT's.

#include <ATen/ATen.h>

#include <algorithm>

#include "experts/companions.h"
#include "experts/kinds.h"
#include "experts/peft_targets.h"

namespace mmtune::experts {

namespace {

struct Options {
  std::vector<std::string> targets = {"key", "value", "output.dense"};
  std::vector<std::string> feed_forward = {"output.dense"};
  Companions companions;
};

class Ia3 final : public Expert {
 public:
  Ia3(const Options& options, const backbones::Backbone& backbone, std::vector<nn::WeightSite*> sites,
      const std::vector<std::string>& others)
      : backbone_(&backbone), sites_(std::move(sites)) {
    std::vector<std::string> inputs, outputs;
    for (const nn::WeightSite* site : sites_) {
      const bool input = std::any_of(options.feed_forward.begin(), options.feed_forward.end(),
                                     [&](const std::string& pattern) { return nn::matches(site->name, pattern); });
      const at::Tensor factors = leaf(input ? at::ones({1, site->in}) : at::ones({site->out, 1}));
      scalings_.push_back(std::make_unique<nn::Scaling>(nn::Scaling{factors, input}));
      (input ? inputs : outputs).push_back(site->name);
    }
    lists_ = factor_lists(inputs, outputs, others);
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
    return {{"peft_type", "IA3"},      {"target_modules", lists_.targets}, {"feedforward_modules", lists_.feed_forward},
            {"fan_in_fan_out", false}, {"init_ia3_weights", true},         {"inference_mode", true}};
  }

  void set_enabled(bool enabled) override {
    if (enabled == enabled_) return;
    for (std::size_t i = 0; i < sites_.size(); ++i) attach(sites_[i]->scalings, scalings_[i].get(), enabled);
    enabled_ = enabled;
  }
  bool enabled() const override { return enabled_; }
  bool mergeable() const override { return true; }
  bool squares_gradients() const override { return true; }

  std::int64_t extra_macs(std::int64_t tokens) const override {
    std::int64_t macs = 0;
    for (std::size_t i = 0; i < sites_.size(); ++i)
      macs += backbone_->rows_at(sites_[i]->name, sites_[i]->layer, tokens) * scalings_[i]->factors.numel();
    return macs;
  }

 private:
  FactorLists lists_;
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
    options_.companions.declare(v, false);
  }

  void read_config(const Json& config, const std::string& where) override {
    read(config, where, "target_modules", options_.targets);
    read(config, where, "feedforward_modules", options_.feed_forward);
    options_.companions.read_config(config, where, false);
  }

  std::unique_ptr<Expert> build(backbones::Backbone& backbone, at::Generator) const override {
    const std::vector<nn::WeightSite*> sites = chosen_maps(backbone, options_.targets, options_.companions.modules_to_save);
    auto ia3 = std::make_unique<Ia3>(options_, backbone, sites, other_maps(names_of(sites), backbone));
    return options_.companions.around(std::move(ia3), backbone, names_of(sites));
  }

 private:
  Options options_;
};

}  // namespace

std::unique_ptr<ExpertRecipe> ia3_recipe() {
  return std::make_unique<Recipe>();
}

}  // namespace mmtune::experts
