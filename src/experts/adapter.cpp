// Bottleneck adapters on sublayer outputs: u + Up(act(Down(u))). Houlsby et al. 2019 (arXiv 1902.00751): after attention and after the
// feed-forward; Pfeiffer et al. 2021 (arXiv 2005.00247): after the feed-forward only. Both sit before the sublayer's residual. Scaled
// parallel adapters (He et al. 2022, arXiv 2110.04366) read the sublayer's input X instead: u + scale · Up(act(Down(Norm(X)))), here beside
// attentions, as the code of APT has them, with a norm of their own.

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "experts/kinds.h"
#include "nn/layers.h"
#include "nn/squared_gradients.h"

namespace mmtune::experts {

namespace {

enum class Variant { houlsby, pfeiffer, parallel };

struct Options {
  Variant variant = Variant::houlsby;
  std::int64_t bottleneck = 64;
  std::string activation = "relu";
  bool learned_scale = false;
  double dropout = 0.0;
  bool dropout_grows = false;
  double init_std = 0.02;
  double scale = 4.0;
  bool behind_norm = false;
};

constexpr double norm_epsilon = 1e-5;

class Bottleneck final : public nn::SublayerHook {
 public:
  Bottleneck(const Options& options, double dropout, std::int64_t width, at::Generator& generator)
      : dropout_(dropout),
        activation_(nn::activation_named(options.activation, "expert.activation")),
        down_weight_(normal_leaf({options.bottleneck, width}, options.init_std, generator)),
        down_bias_(leaf(at::zeros({options.bottleneck}))),
        up_weight_(normal_leaf({width, options.bottleneck}, options.variant == Variant::parallel ? options.init_std : 0.0, generator)),
        up_bias_(leaf(at::zeros({width}))),
        learned_scale_(options.learned_scale ? leaf(at::ones({1})) : at::Tensor()) {
    if (options.variant != Variant::parallel) return;
    scale_ = options.scale;
    norm_weight_ = leaf(at::ones({width}));
    norm_bias_ = leaf(at::zeros({width}));
  }

  at::Tensor apply(const at::Tensor& output, const at::Tensor& input, const nn::Layout&, const nn::Context& context) override {
    const at::Tensor from = norm_weight_.defined() ? nn::learned_norm(input, norm_weight_, norm_bias_, norm_epsilon, context) : output;
    const at::Tensor down = nn::learned_linear(from, down_weight_, down_bias_, context);
    const at::Tensor hidden = nn::dropout(nn::activate(down, activation_), dropout_, context);
    const at::Tensor up = nn::learned_linear(hidden, up_weight_, up_bias_, context);
    return at::add(output, learned_scale_.defined() ? up * nn::spread_rows(learned_scale_, up.size(0), context) : up, scale_);
  }

  void list(const std::string& site, std::vector<nn::NamedTensor>& named) const {
    if (norm_weight_.defined()) {
      named.push_back({site + ".adapter.adapter_layer_norm_before.weight", norm_weight_});
      named.push_back({site + ".adapter.adapter_layer_norm_before.bias", norm_bias_});
    }
    named.push_back({site + ".adapter.down_proj.weight", down_weight_});
    named.push_back({site + ".adapter.down_proj.bias", down_bias_});
    named.push_back({site + ".adapter.up_proj.weight", up_weight_});
    named.push_back({site + ".adapter.up_proj.bias", up_bias_});
    if (learned_scale_.defined()) named.push_back({site + ".adapter.scale", learned_scale_});
  }

 private:
  double dropout_;
  nn::Activation activation_;
  at::Tensor down_weight_, down_bias_, up_weight_, up_bias_, learned_scale_;
  at::Tensor norm_weight_, norm_bias_;  ///< of parallel ones
  double scale_ = 1.0;
};

/// The dropout of every site. Where it grows, in a line from 0 in the first block of a stack (encoder, decoder) to the rate in its last.
std::vector<double> dropouts_of(const std::vector<nn::SublayerSite*>& sites, const Options& options) {
  std::vector<double> rates(sites.size(), options.dropout);
  if (!options.dropout_grows) return rates;
  const auto stack = [](const nn::SublayerSite* site) { return site->name.substr(0, site->name.find_first_of("0123456789")); };
  std::map<std::string, std::pair<std::int64_t, std::int64_t>> span;
  for (const nn::SublayerSite* site : sites) {
    const auto [found, added] = span.try_emplace(stack(site), site->layer, site->layer);
    found->second = {std::min(found->second.first, site->layer), std::max(found->second.second, site->layer)};
  }
  for (std::size_t i = 0; i < sites.size(); ++i) {
    const auto [first, last] = span.at(stack(sites[i]));
    rates[i] *= static_cast<double>(sites[i]->layer - first) / static_cast<double>(std::max<std::int64_t>(last - first, 1));
  }
  return rates;
}

constexpr std::pair<Variant, std::string_view> variant_names[] = {
    {Variant::houlsby, "houlsby"}, {Variant::pfeiffer, "pfeiffer"}, {Variant::parallel, "parallel"}};

class Adapter final : public Expert {
 public:
  Adapter(const Options& options, const backbones::Backbone& backbone, std::vector<nn::SublayerSite*> sites, at::Generator& generator)
      : options_(options), backbone_(&backbone), sites_(std::move(sites)) {
    const std::vector<double> dropouts = dropouts_of(sites_, options_);
    for (std::size_t i = 0; i < sites_.size(); ++i)
      hooks_.push_back(std::make_unique<Bottleneck>(options_, dropouts[i], sites_[i]->width, generator));
    set_enabled(true);
  }
  ~Adapter() override { set_enabled(false); }

  std::string_view kind() const override { return "adapter"; }
  std::vector<nn::NamedTensor> tensors() const override {
    std::vector<nn::NamedTensor> named;
    for (std::size_t i = 0; i < sites_.size(); ++i) hooks_[i]->list(sites_[i]->name, named);
    return named;
  }
  Json config() const override {
    return {{"peft_type", "MMTUNE_ADAPTER"},           {"variant", variant_names[static_cast<std::size_t>(options_.variant)].second},
            {"bottleneck", options_.bottleneck},       {"activation", options_.activation},
            {"learned_scale", options_.learned_scale}, {"dropout", options_.dropout},
            {"dropout_grows", options_.dropout_grows}, {"scale", options_.scale},
            {"behind_norm", options_.behind_norm}};
  }
  void set_enabled(bool enabled) override {
    if (enabled == enabled_) return;
    for (std::size_t i = 0; i < sites_.size(); ++i)
      attach(options_.behind_norm ? sites_[i]->norm_hooks : sites_[i]->hooks, hooks_[i].get(), enabled);
    enabled_ = enabled;
  }
  bool enabled() const override { return enabled_; }
  bool squares_gradients() const override { return true; }
  std::int64_t extra_macs(std::int64_t tokens) const override {
    std::int64_t macs = 0;
    for (const nn::SublayerSite* site : sites_)
      macs += 2 * backbone_->rows_at(site->name, site->layer, tokens) * options_.bottleneck * site->width;
    return macs;
  }

 private:
  Options options_;
  const backbones::Backbone* backbone_;
  std::vector<nn::SublayerSite*> sites_;
  std::vector<std::unique_ptr<Bottleneck>> hooks_;
  bool enabled_ = false;
};

class Recipe final : public ExpertRecipe {
 public:
  std::string_view kind() const override { return "adapter"; }
  std::string_view summary() const override {
    return "a bottleneck behind or beside sublayers (Houlsby et al. 2019; Pfeiffer et al. 2020; He et al. 2022)";
  }
  void declare(OptionVisitor& v) override {
    v.choice("variant", options_.variant,
             {{"houlsby", Variant::houlsby, "after attention and after the feed-forward"},
              {"pfeiffer", Variant::pfeiffer, "after the feed-forward only"},
              {"parallel", Variant::parallel, "beside attentions, on their normed input, scaled"}},
             {.help = "where adapters stand in a block"});
    v.field("bottleneck", options_.bottleneck, {.help = "width of the bottleneck", .min = 1, .max = 65536});
    v.field("activation", options_.activation,
            {.help = "between the two projections", .choices = {"relu", "gelu", "gelu_new", "quick_gelu", "silu", "tanh"}});
    v.field("learned_scale", options_.learned_scale, {.help = "learn one factor on what the adapter adds, beginning at 1"});
    v.field("dropout", options_.dropout, {.help = "dropout behind the activation while training", .min = 0, .below = 1});
    v.field("dropout_grows", options_.dropout_grows,
            {.help = "dropout from 0 in the first block of a stack to the rate in its last, as OFA's adapters have it with its drop-path"});
    v.field(
        "init_std", options_.init_std,
        {.help = "standard deviation of the start of both projections of a parallel adapter, and of the others' down projection, whose up "
                 "projection starts at zero",
         .above = 0});
    v.field("scale", options_.scale, {.help = "factor of a parallel adapter", .above = 0});
    v.field("behind_norm", options_.behind_norm,
            {.help = "parallel: added behind the norm that follows the residual (as on METER) instead of before the residual"});
    v.require("behind_norm", !options_.behind_norm || options_.variant == Variant::parallel, "variant = \"parallel\"");
  }
  void read_config(const Json& config, const std::string& where) override {
    std::string variant = "houlsby";
    read(config, where, "variant", variant);
    const auto* const found =
        std::find_if(std::begin(variant_names), std::end(variant_names), [&](const auto& one) { return one.second == variant; });
    if (found == std::end(variant_names))
      throw Error(
          {.what = "adapter variant is unknown", .where = where, .expected = "houlsby, pfeiffer or parallel", .got = printable(variant)});
    options_.variant = found->first;
    read(config, where, "scale", options_.scale);
    read(config, where, "behind_norm", options_.behind_norm);
    read(config, where, "bottleneck", options_.bottleneck);
    if (options_.bottleneck < 1 || options_.bottleneck > 65536) throw Error({.what = "bottleneck is out of range", .where = where});
    read(config, where, "activation", options_.activation);
    read(config, where, "learned_scale", options_.learned_scale);
    read(config, where, "dropout", options_.dropout);
    read(config, where, "dropout_grows", options_.dropout_grows);
  }
  std::unique_ptr<Expert> build(backbones::Backbone& backbone, at::Generator generator) const override {
    std::vector<nn::SublayerSite*> sites;
    for (nn::SublayerSite* site : backbone.sites().sublayers) {
      const bool feed_forward = site->role == nn::SublayerSite::Role::feed_forward;
      if (options_.variant == Variant::houlsby || feed_forward == (options_.variant == Variant::pfeiffer)) sites.push_back(site);
    }
    if (options_.behind_norm && std::any_of(sites.begin(), sites.end(), [](const nn::SublayerSite* site) { return !site->normed; }))
      throw UsageError({.what = "the blocks of " + backbone.info().architecture + " have no norm behind the residual",
                        .where = "expert.behind_norm",
                        .expected = "false"});
    return std::make_unique<Adapter>(options_, backbone, std::move(sites), generator);
  }

 private:
  Options options_;
};

}  // namespace

std::unique_ptr<ExpertRecipe> adapter_recipe() {
  return std::make_unique<Recipe>();
}

}  // namespace mmtune::experts
