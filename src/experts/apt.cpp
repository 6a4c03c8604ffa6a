#include "experts/apt.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "experts/kinds.h"

namespace mmtune::experts {

namespace {

constexpr std::int64_t most_prompts = 65536, highest_rank = 4096;
constexpr double init_std = 0.02;

template <class Value>
struct Named {
  Value value;
  const char* name;
  const char* help;
};
constexpr std::array<Named<AptInit>, 2> inits = {
    {{AptInit::released, "released", "both low-rank factors from normal(0, 0.02), as in the published models"},
     {AptInit::paper, "paper", "the first factor from normal(0, 1), the second zero: keys start as the prompts"}}};
constexpr std::array<Named<nn::DiffusionActivation>, 2> activations = {
    {{nn::DiffusionActivation::relu, "relu", "prompts fire independently of each other"},
     {nn::DiffusionActivation::softmax, "softmax", "prompts compete"}}};
constexpr std::array<Named<AptWeight>, 3> weights = {
    {{AptWeight::max, "max", "by its largest activation, through which no gradient flows"},
     {AptWeight::none, "none", "not at all"},
     {AptWeight::learned, "learned", "by the sigmoid of a learned linear map of the row"}}};
constexpr std::array<Named<AptKeys>, 2> keys = {
    {{AptKeys::low_rank, "low_rank", "the prompts with a low-rank correction"}, {AptKeys::prompts, "prompts", "the prompts themselves"}}};

template <class Value, std::size_t size>
const char* name_of(const std::array<Named<Value>, size>& all, Value value) {
  return std::find_if(all.begin(), all.end(), [&](const auto& one) { return one.value == value; })->name;
}

template <class Value, std::size_t size>
void choose(OptionVisitor& v, const std::string& key, Value& value, const std::array<Named<Value>, size>& all, const char* help) {
  std::vector<Choice<Value>> choices;
  for (const Named<Value>& one : all) choices.push_back({one.name, one.value, one.help});
  v.choice(key, value, choices, {.help = help});
}

template <class Value, std::size_t size>
void read_choice(const Json& config, const std::string& where, const std::string& key, const std::array<Named<Value>, size>& all,
                 Value& value) {
  std::string name = name_of(all, value);
  read(config, where, key, name);
  for (const Named<Value>& one : all) {
    if (name != one.name) continue;
    value = one.value;
    return;
  }
  std::vector<std::string> names;
  for (const Named<Value>& one : all) names.emplace_back(one.name);
  throw Error({.what = "value is unknown", .where = where + " (" + key + ")", .expected = listed(names), .got = printable(name)});
}

}  // namespace

/// One attention sublayer's prompts.
class Apt::Place final : public nn::SublayerHook {
 public:
  Place(Apt& owner, const nn::SublayerSite& site, at::Generator& generator) : owner_(&owner), name_(site.name) {
    const AptOptions& options = owner.options_;
    prompts_ = normal_leaf({options.prompts, site.width}, init_std, generator);
    if (options.keys == AptKeys::low_rank) {
      const bool paper = options.init == AptInit::paper;
      first_ = normal_leaf({options.rank, site.width}, paper ? 1.0 : init_std, generator);
      second_ = normal_leaf({site.width, options.rank}, paper ? 0.0 : init_std, generator);
    }
    if (options.weight == AptWeight::learned) gate_ = leaf(at::zeros({site.width}));
    scale_ = leaf(at::zeros({1}));
    if (!options.learn_scale) scale_.requires_grad_(false);
  }

  at::Tensor apply(const at::Tensor& output, const at::Tensor& input, const nn::Layout& layout, const nn::Context& context) override {
    const nn::Diffusion diffusion{.keys = keys(),
                                  .values = prompts_,
                                  .scale = scale_,
                                  .weights = gate_.defined() ? input.mv(gate_).sigmoid() : at::Tensor(),
                                  .activation = owner_->options_.activation,
                                  .weigh = owner_->options_.weight == AptWeight::max,
                                  .precision = context.matmul_precision};
    if (owner_->watching_)
      owner_->watched_.push_back({name_, layout, input.detach(), diffusion.keys.detach(), nn::diffusion_parts(input, diffusion)});
    return nn::diffuse(output, input, diffusion, true);  // the site goes on with the result alone
  }

  void list(std::vector<nn::NamedTensor>& named) const {
    named.push_back({name_ + ".APT.mm_tokens", prompts_});
    if (first_.defined()) {
      named.push_back({name_ + ".APT.mm.0.weight", first_});
      named.push_back({name_ + ".APT.mm.1.weight", second_});
    }
    if (gate_.defined()) named.push_back({name_ + ".APT.gate", gate_});
    named.push_back({name_ + ".APT.scale", scale_});
  }
  const at::Tensor& prompts() const { return prompts_; }

 private:
  at::Tensor keys() const {
    // They depend on parameters alone: the same for all rows of a batch.
    return first_.defined() ? at::addmm(prompts_, prompts_.mm(first_.t()), second_.t()) : prompts_;
  }

  Apt* owner_;
  std::string name_;
  at::Tensor prompts_, first_, second_, gate_, scale_;
};

Apt::Apt(const AptOptions& options, backbones::Backbone& backbone, at::Generator& generator) : options_(options), backbone_(&backbone) {
  std::vector<nn::SublayerSite*> attentions = backbone.sites().sublayers;
  std::erase_if(attentions, [](const nn::SublayerSite* site) { return site->role == nn::SublayerSite::Role::feed_forward; });
  sites_ = chosen(attentions, options_.targets, "attention");
  for (const nn::SublayerSite* site : sites_) places_.push_back(std::make_unique<Place>(*this, *site, generator));
  set_enabled(true);
}

Apt::~Apt() {
  set_enabled(false);
}

std::vector<nn::NamedTensor> Apt::tensors() const {
  std::vector<nn::NamedTensor> named;
  for (const auto& place : places_) place->list(named);
  return named;
}

Json Apt::config() const {
  return {{"peft_type", "MMTUNE_APT"},
          {"prompts", options_.prompts},
          {"rank", options_.rank},
          {"init", name_of(inits, options_.init)},
          {"activation", name_of(activations, options_.activation)},
          {"weight", name_of(weights, options_.weight)},
          {"keys", name_of(keys, options_.keys)},
          {"learn_scale", options_.learn_scale},
          {"targets", options_.targets}};
}

void Apt::set_enabled(bool enabled) {
  if (enabled == enabled_) return;
  for (std::size_t i = 0; i < sites_.size(); ++i) attach(sites_[i]->hooks, places_[i].get(), enabled);
  enabled_ = enabled;
}

std::int64_t Apt::extra_macs(std::int64_t tokens) const {
  std::int64_t macs = 0;
  for (const nn::SublayerSite* site : sites_) {
    const std::int64_t rows = backbone_->rows_at(site->name, site->layer, tokens);
    macs += 2 * rows * options_.prompts * site->width;
    if (options_.keys == AptKeys::low_rank) macs += 2 * options_.prompts * site->width * options_.rank;
    if (options_.weight == AptWeight::learned) macs += rows * site->width;
  }
  return macs;
}

void Apt::watch(bool on) {
  watching_ = on;
  watched_.clear();
}

std::vector<at::Tensor> Apt::prompts() const {
  std::vector<at::Tensor> all;
  for (const auto& place : places_) all.push_back(place->prompts());
  return all;
}

namespace {

class Recipe final : public ExpertRecipe {
 public:
  std::string_view kind() const override { return "apt"; }
  std::string_view summary() const override {
    return "the effect of prompts on an attention, computed beside it at a fraction of their cost (Wu et al. 2023)";
  }
  void declare(OptionVisitor& v) override {
    v.field("prompts", options_.prompts, {.help = "prompts of every attention", .min = 1, .max = most_prompts});
    v.field("rank", options_.rank, {.help = "rank of the correction that makes keys of prompts", .min = 1, .max = highest_rank});
    choose(v, "init", options_.init, inits, "how the correction starts");
    choose(v, "activation", options_.activation, activations, "of the scores between rows and keys");
    choose(v, "weight", options_.weight, weights, "what a row's diffusion is weighed by");
    choose(v, "keys", options_.keys, keys, "what rows are compared with");
    v.field("learn_scale", options_.learn_scale, {.help = "learn a factor of every attention's whole output"});
    v.field("targets", options_.targets,
            {.help = "attentions that get prompts: names, endings of names, or patterns with *", .min_items = 1});
  }
  void read_config(const Json& config, const std::string& where) override {
    read(config, where, "prompts", options_.prompts);
    read(config, where, "rank", options_.rank);
    if (options_.prompts < 1 || options_.prompts > most_prompts) throw Error({.what = "prompts is out of range", .where = where});
    if (options_.rank < 1 || options_.rank > highest_rank) throw Error({.what = "rank is out of range", .where = where});
    read_choice(config, where, "init", inits, options_.init);
    read_choice(config, where, "activation", activations, options_.activation);
    read_choice(config, where, "weight", weights, options_.weight);
    read_choice(config, where, "keys", keys, options_.keys);
    read(config, where, "learn_scale", options_.learn_scale);
    read(config, where, "targets", options_.targets);
  }
  std::unique_ptr<Expert> build(backbones::Backbone& backbone, at::Generator generator) const override {
    return std::make_unique<Apt>(options_, backbone, generator);
  }

 private:
  AptOptions options_;
};

}  // namespace

std::unique_ptr<ExpertRecipe> apt_recipe() {
  return std::make_unique<Recipe>();
}

}  // namespace mmtune::experts
