#include "experts/fusion.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "experts/interpolation_part.h"
#include "experts/kinds.h"
#include "nn/layers.h"

namespace mmtune::experts {

namespace {

enum class Mode { attention, mixture };
constexpr std::pair<Mode, std::string_view> mode_names[] = {{Mode::attention, "attention"}, {Mode::mixture, "mixture"}};

struct Options {
  std::string target;
  std::vector<std::string> experts;
  Mode mode = Mode::attention;
  bool train_experts = false;
  // Of the adapters.
  std::int64_t count = 0, bottleneck = 0;
  std::string activation = "relu", variant = "houlsby";
};

/// At one site: z_i = Up_i(act(Down_i(u))) of every adapter. Mixture: u + Σ α_i z_i. Attention: u + Σ s_i V z_i, s = softmax over i of
/// (Q u)·(K z_i).
class Joined final : public nn::SublayerHook {
 public:
  Joined(const Options& options, std::int64_t width, at::Generator& generator)
      : activation_(nn::activation_named(options.activation, "expert.activation")),
        down_weight_(leaf(at::zeros({options.count, options.bottleneck, width}))),
        down_bias_(leaf(at::zeros({options.count, options.bottleneck}))),
        up_weight_(leaf(at::zeros({options.count, width, options.bottleneck}))),
        up_bias_(leaf(at::zeros({options.count, width}))) {
    if (options.mode == Mode::mixture) {
      logits_ = leaf(at::ones({options.count}));
      return;
    }
    query_ = normal_leaf({width, width}, 0.02, generator);
    key_ = normal_leaf({width, width}, 0.02, generator);
    value_ = leaf(at::eye(width));
  }

  at::Tensor apply(const at::Tensor& output, const at::Tensor&, const nn::Layout&, const nn::Context&) override {
    const std::int64_t count = down_weight_.size(0), bottleneck = down_weight_.size(1), width = output.size(1);
    // [K, N, m], then [K, N, D].
    const at::Tensor down = at::linear(output, down_weight_.view({count * bottleneck, width}), down_bias_.view({-1}))
                                .view({-1, count, bottleneck})
                                .transpose(0, 1);
    const at::Tensor made = at::baddbmm(up_bias_.unsqueeze(1), nn::activate(down, activation_), up_weight_.transpose(1, 2));
    if (logits_.defined()) return output + (made * logits_.softmax(0).view({count, 1, 1})).sum(0);
    const at::Tensor asked = at::linear(output, query_), keys = at::linear(made, key_);
    const at::Tensor shares = (asked.unsqueeze(0) * keys).sum(2).softmax(0);  // [K, N]
    return output + at::linear((made * shares.unsqueeze(2)).sum(0), value_);
  }

  /// Takes over what adapter `number` has learned.
  void fill(std::int64_t number, const std::string& part, const at::Tensor& value) {
    const at::NoGradGuard no_grad;
    at::Tensor& all = part == "down_proj.weight" ? down_weight_
                      : part == "down_proj.bias" ? down_bias_
                      : part == "up_proj.weight" ? up_weight_
                                                 : up_bias_;
    all.select(0, number).copy_(value);
  }
  void train_adapters(bool train) {
    for (at::Tensor* one : {&down_weight_, &down_bias_, &up_weight_, &up_bias_}) one->requires_grad_(train);
  }
  void list(const std::string& site, std::vector<nn::NamedTensor>& named) const {
    const std::string front = site + ".fusion.";
    named.push_back({front + "down_proj.weight", down_weight_});
    named.push_back({front + "down_proj.bias", down_bias_});
    named.push_back({front + "up_proj.weight", up_weight_});
    named.push_back({front + "up_proj.bias", up_bias_});
    if (logits_.defined()) {
      named.push_back({front + "coefficients", logits_});
      return;
    }
    named.push_back({front + "query.weight", query_});
    named.push_back({front + "key.weight", key_});
    named.push_back({front + "value.weight", value_});
  }
  std::int64_t macs() const {
    const std::int64_t count = down_weight_.size(0), width = down_weight_.size(2);
    return 2 * down_weight_.numel() + (logits_.defined() ? count * width : (2 + count) * width * width + 2 * count * width);
  }

 private:
  nn::Activation activation_;
  at::Tensor down_weight_, down_bias_, up_weight_, up_bias_;
  at::Tensor logits_;               ///< mixture
  at::Tensor query_, key_, value_;  ///< attention
};

class Fusion final : public Expert {
 public:
  Fusion(const Options& options, const backbones::Backbone& backbone, std::vector<nn::SublayerSite*> sites, at::Generator& generator)
      : options_(options), backbone_(&backbone), sites_(std::move(sites)) {
    for (const nn::SublayerSite* site : sites_) {
      hooks_.push_back(std::make_unique<Joined>(options_, site->width, generator));
      hooks_.back()->train_adapters(options_.train_experts);
    }
    set_enabled(true);
  }
  ~Fusion() override { set_enabled(false); }

  std::string_view kind() const override { return "fusion"; }
  std::vector<nn::NamedTensor> tensors() const override {
    std::vector<nn::NamedTensor> named;
    for (std::size_t i = 0; i < sites_.size(); ++i) hooks_[i]->list(sites_[i]->name, named);
    return named;
  }
  Json config() const override {
    return {{"peft_type", "MMTUNE_FUSION"},      {"mode", mode_names[static_cast<std::size_t>(options_.mode)].second},
            {"adapters", options_.count},        {"bottleneck", options_.bottleneck},
            {"activation", options_.activation}, {"variant", options_.variant}};
  }
  void set_enabled(bool enabled) override {
    if (enabled == enabled_) return;
    for (std::size_t i = 0; i < sites_.size(); ++i) attach(sites_[i]->hooks, hooks_[i].get(), enabled);
    enabled_ = enabled;
  }
  bool enabled() const override { return enabled_; }
  std::int64_t extra_macs(std::int64_t tokens) const override {
    std::int64_t macs = 0;
    for (std::size_t i = 0; i < sites_.size(); ++i)
      macs += backbone_->rows_at(sites_[i]->name, sites_[i]->layer, tokens) * hooks_[i]->macs();
    return macs;
  }
  /// Copies adapter `number` in. Throws Error on a tensor that none of the sites has.
  void fill(std::int64_t number, const InterpolationPart& part) {
    for (const nn::NamedTensor& one : part.tensors) {
      const std::size_t mark = one.name.find(".adapter.");
      const std::string site = one.name.substr(0, mark);
      const auto found = std::find_if(sites_.begin(), sites_.end(), [&](const nn::SublayerSite* own) { return own->name == site; });
      if (mark == std::string::npos || found == sites_.end())
        throw Error({.what = "the adapters stand at different sites", .where = printable(part.folder), .got = one.name});
      hooks_[static_cast<std::size_t>(found - sites_.begin())]->fill(number, one.name.substr(mark + 9), one.tensor);
    }
  }

 private:
  Options options_;
  const backbones::Backbone* backbone_;
  std::vector<nn::SublayerSite*> sites_;
  std::vector<std::unique_ptr<Joined>> hooks_;
  bool enabled_ = false;
};

class Recipe final : public ExpertRecipe {
 public:
  std::string_view kind() const override { return "fusion"; }
  std::string_view summary() const override {
    return "the outputs of several trained adapters, joined by attention (AdapterFusion, Pfeiffer et al. 2021) or coefficients";
  }
  void declare(OptionVisitor& v) override {
    v.field("target", options_.target, {.help = "run folder of the task's own adapter", .unset = "none takes part"});
    v.field("experts", options_.experts, {.help = "run folders of the other adapters", .min_items = 1});
    v.choice("mode", options_.mode,
             {{"attention", Mode::attention, "every row asks which of its adapters' outputs it takes"},
              {"mixture", Mode::mixture, "one softmax coefficient an adapter and site"}},
             {.help = "how the outputs are joined"});
    v.field("train_experts", options_.train_experts, {.help = "train the adapters too, not only what joins them"});
  }
  std::vector<std::string*> paths() override {
    std::vector<std::string*> all = {&options_.target};
    for (std::string& one : options_.experts) all.push_back(&one);
    return all;
  }
  void read_config(const Json& config, const std::string& where) override {
    std::string mode = "attention";
    read(config, where, "mode", mode);
    const auto* const found =
        std::find_if(std::begin(mode_names), std::end(mode_names), [&](const auto& one) { return one.second == mode; });
    if (found == std::end(mode_names))
      throw Error({.what = "mode is unknown", .where = where, .expected = "attention or mixture", .got = printable(mode)});
    options_.mode = found->first;
    read(config, where, "adapters", options_.count);
    read(config, where, "bottleneck", options_.bottleneck);
    read(config, where, "activation", options_.activation);
    read(config, where, "variant", options_.variant);
    for (const auto& [value, most] : {std::pair{options_.count, std::int64_t{4096}}, {options_.bottleneck, std::int64_t{65536}}})
      if (value < 1 || value > most) throw Error({.what = "adapters or bottleneck is out of range", .where = where});
    options_.train_experts = true;
  }
  bool needs_fingerprint() const override { return true; }
  std::unique_ptr<Expert> build(backbones::Backbone& backbone, at::Generator generator) const override {
    return made(options_, backbone, std::move(generator));
  }

  std::unique_ptr<Expert> build_on(backbones::Backbone& backbone, const std::string& fingerprint, at::Generator generator) const override {
    std::vector<InterpolationPart> parts;
    if (!options_.target.empty()) parts.push_back(read_part(options_.target, backbone, fingerprint));
    for (const std::string& run : options_.experts) parts.push_back(read_part(run, backbone, fingerprint));
    if (parts.empty())
      throw UsageError({.what = "no adapters are named", .where = "expert.method = \"fusion\"", .expected = "expert.experts"});
    Options own = options_;
    const InterpolationPart& first = parts.front();
    for (const InterpolationPart& part : parts) {
      const std::string where = printable(part.folder) + " beside " + printable(first.folder);
      if (part.kind != "adapter")
        throw Error({.what = "only adapters have outputs that can be joined",
                     .where = printable(part.folder),
                     .expected = "adapter",
                     .got = part.kind});
      if (part.config.at("variant") == "parallel" || part.config.at("learned_scale") == true)
        throw Error({.what = "adapters with a norm or factor of their own cannot be joined", .where = printable(part.folder)});
      for (const char* key : {"variant", "activation", "bottleneck"})
        if (part.config.at(key) != first.config.at(key))
          throw Error({.what = std::string("the adapters differ in \"") + key + "\"",
                       .where = where,
                       .expected = first.config.at(key).dump(),
                       .got = part.config.at(key).dump()});
    }
    own.count = static_cast<std::int64_t>(parts.size());
    own.bottleneck = first.config.at("bottleneck");
    own.activation = first.config.at("activation");
    own.variant = first.config.at("variant");
    std::unique_ptr<Fusion> fusion = made(own, backbone, std::move(generator));
    for (std::size_t i = 0; i < parts.size(); ++i) fusion->fill(static_cast<std::int64_t>(i), parts[i]);
    return fusion;
  }

 private:
  static std::unique_ptr<Fusion> made(const Options& options, backbones::Backbone& backbone, at::Generator generator) {
    std::vector<nn::SublayerSite*> sites;
    for (nn::SublayerSite* site : backbone.sites().sublayers)
      if (options.variant != "pfeiffer" || site->role == nn::SublayerSite::Role::feed_forward) sites.push_back(site);
    return std::make_unique<Fusion>(options, backbone, std::move(sites), generator);
  }

  Options options_;
};

}  // namespace

std::unique_ptr<ExpertRecipe> fusion_recipe() {
  return std::make_unique<Recipe>();
}

}  // namespace mmtune::experts
