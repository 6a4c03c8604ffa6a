// LoRA (Hu et al. 2021, arXiv 2106.09685): y += (alpha / r) · dropout(x) Aᵀ Bᵀ beside a frozen linear map; rsLoRA scales by alpha / √r
// (Kalajdzievski 2023, arXiv 2312.03732); DoRA learns the lengths of the sum's rows apart (Liu et al. 2024, arXiv 2402.09353). Tensor names
// and configuration keys are PEFT's.

#include <ATen/ATen.h>

#include <cmath>

#include "experts/kinds.h"

namespace mmtune::experts {

namespace {

struct Options {
  std::int64_t rank = 8;
  double alpha = 16;
  bool rslora = false;
  bool dora = false;
  double dropout = 0.0;
  std::vector<std::string> targets = {"query", "value"};

  double scale() const { return alpha / (rslora ? std::sqrt(static_cast<double>(rank)) : static_cast<double>(rank)); }
};

void refuse_company(const nn::WeightSite& site) {
  if (site.low_rank.empty()) return;
  throw Error({.what = "a DoRA expert and another low-rank expert meet at one linear map",
               .where = site.name,
               .hint = "give them different targets, or switch dora off"});
}

class Lora final : public Expert {
 public:
  Lora(const Options& options, const backbones::Backbone& backbone, std::vector<nn::WeightSite*> sites, at::Generator& generator)
      : options_(options), backbone_(&backbone), sites_(std::move(sites)) {
    for (const nn::WeightSite* site : sites_) {
      // Kaiming-uniform with a = √5, as nn.Linear and PEFT: U(±1/√in).
      const double bound = 1.0 / std::sqrt(static_cast<double>(site->in));
      const at::Tensor a = leaf(at::empty({options_.rank, site->in}).uniform_(-bound, bound, generator));
      const at::Tensor b = leaf(at::zeros({site->out, options_.rank}));
      // B is zero, so that the rows' lengths are the frozen weight's.
      const at::Tensor magnitude = options_.dora ? leaf(site->weight.detach().to(at::kFloat).norm(2, {1})) : at::Tensor();
      terms_.push_back(std::make_unique<nn::LowRank>(nn::LowRank{a, b, options_.scale(), options_.dropout, magnitude}));
    }
    set_enabled(true);
  }
  ~Lora() override { set_enabled(false); }

  std::string_view kind() const override { return "lora"; }

  std::vector<nn::NamedTensor> tensors() const override {
    std::vector<nn::NamedTensor> named;
    for (std::size_t i = 0; i < sites_.size(); ++i) {
      named.push_back({sites_[i]->name + ".lora_A.weight", terms_[i]->a});
      named.push_back({sites_[i]->name + ".lora_B.weight", terms_[i]->b});
      if (options_.dora) named.push_back({sites_[i]->name + ".lora_magnitude_vector", terms_[i]->magnitude});
    }
    return named;
  }

  Json config() const override {
    return {{"peft_type", "LORA"},
            {"r", options_.rank},
            {"lora_alpha", options_.alpha},
            {"use_rslora", options_.rslora},
            {"use_dora", options_.dora},
            {"lora_dropout", options_.dropout},
            {"target_modules", options_.targets},
            {"bias", "none"},
            {"fan_in_fan_out", false},
            {"inference_mode", true}};
  }

  void set_enabled(bool enabled) override {
    if (enabled == enabled_) return;
    for (std::size_t i = 0; i < sites_.size(); ++i) {
      nn::WeightSite& site = *sites_[i];
      if (enabled && (options_.dora || (!site.low_rank.empty() && site.low_rank.front()->magnitude.defined()))) refuse_company(site);
      attach(site.low_rank, terms_[i].get(), enabled);
    }
    enabled_ = enabled;
  }
  bool enabled() const override { return enabled_; }

  std::int64_t extra_macs(std::int64_t tokens) const override {
    std::int64_t macs = 0;
    for (const nn::WeightSite* site : sites_)
      macs += backbone_->rows_at(site->name, site->layer, tokens) * options_.rank * (site->in + site->out);
    return macs;
  }

 private:
  Options options_;
  const backbones::Backbone* backbone_;
  std::vector<nn::WeightSite*> sites_;
  std::vector<std::unique_ptr<nn::LowRank>> terms_;
  bool enabled_ = false;
};

class Recipe final : public ExpertRecipe {
 public:
  std::string_view kind() const override { return "lora"; }
  std::string_view summary() const override {
    return "a product of two thin matrices added to every chosen linear map (Hu et al. 2021; also rank-stabilised, DoRA)";
  }

  void declare(OptionVisitor& v) override {
    v.field("rank", options_.rank, {.help = "rank r of the update", .min = 1, .max = 4096});
    v.field("alpha", options_.alpha, {.help = "the update is multiplied by alpha / rank", .above = 0});
    v.field("rslora", options_.rslora, {.help = "multiply by alpha / sqrt(rank) instead (rank-stabilised LoRA)"});
    v.field("dora", options_.dora, {.help = "learn the lengths of the weight's rows apart from their directions (DoRA)"});
    v.field("dropout", options_.dropout, {.help = "dropout on the update's input while training", .min = 0, .below = 1});
    v.field("targets", options_.targets,
            {.help = "linear maps that get an update: names, endings of names, or patterns with *", .min_items = 1});
  }

  void read_config(const Json& config, const std::string& where) override {
    read(config, where, "r", options_.rank);
    read(config, where, "lora_alpha", options_.alpha);
    read(config, where, "use_rslora", options_.rslora);
    read(config, where, "use_dora", options_.dora);
    read(config, where, "lora_dropout", options_.dropout);
    read(config, where, "target_modules", options_.targets);
    refuse_unless_plain(config, where, "bias", "none");
    for (const char* key :
         {"fan_in_fan_out", "lora_bias", "alora_invocation_tokens", "rank_pattern", "alpha_pattern", "modules_to_save",
          "layers_to_transform", "layer_replication", "exclude_modules", "target_parameters", "trainable_token_indices", "megatron_config"})
      refuse_unless_plain(config, where, key, false);
    if (options_.rank < 1 || options_.alpha <= 0) throw Error({.what = "r and lora_alpha must be positive", .where = where});
  }

  std::unique_ptr<Expert> build(backbones::Backbone& backbone, at::Generator generator) const override {
    Options own = options_;
    own.targets = spelt(backbone.sites().weights, own.targets);
    return std::make_unique<Lora>(own, backbone, chosen(backbone.sites().weights, options_.targets, "linear map"), generator);
  }

 private:
  Options options_;
};

}  // namespace

std::unique_ptr<ExpertRecipe> lora_recipe() {
  return std::make_unique<Recipe>();
}

}  // namespace mmtune::experts
