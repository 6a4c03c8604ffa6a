// LoRA (Hu et al. 2021, arXiv 2106.09685): y += (alpha / r) · dropout(x) Aᵀ Bᵀ beside a frozen linear map; rsLoRA scales by alpha / √r
// (Kalajdzievski 2023, arXiv 2312.03732); DoRA learns the lengths of the sum's rows apart (Liu et al. 2024, arXiv 2402.09353). Tensor names
// and configuration keys are PEFT's.

#include <ATen/ATen.h>

#include <cmath>
#include <optional>

#include "experts/companions.h"
#include "experts/kinds.h"

namespace mmtune::experts {

namespace {

constexpr std::int64_t highest_rank = 4096;

enum class LoraInit { kaiming, normal };

struct Options {
  std::int64_t rank = 8;
  double alpha = 16;
  std::map<std::string, double> rank_pattern, alpha_pattern;
  LoraInit init = LoraInit::kaiming;
  bool rslora = false;
  bool dora = false;
  double dropout = 0.0;
  std::vector<std::string> targets = {"query", "value"};
  Companions companions;
};

/// Rank and alpha of one linear map.
struct Strength {
  std::int64_t rank;
  double alpha;
};

void refuse_company(const nn::WeightSite& site) {
  if (site.low_rank.empty()) return;
  throw Error({.what = "a DoRA expert and another low-rank expert meet at one linear map",
               .where = site.name,
               .hint = "give them different targets, or switch dora off"});
}

/// What `patterns` say of each site; `fallback` where none chooses it. Throws UsageError where two say different things, or where one says
/// nothing of any site.
std::vector<double> by_pattern(const std::map<std::string, double>& patterns, double fallback, const std::vector<nn::WeightSite*>& sites,
                               const std::string& key) {
  std::vector<double> values(sites.size(), fallback);
  std::vector<const std::string*> by(sites.size(), nullptr);
  for (const auto& [pattern, value] : patterns) {
    bool any = false;
    for (std::size_t i = 0; i < sites.size(); ++i) {
      if (!nn::matches(sites[i]->name, pattern)) continue;
      any = true;
      if (by[i] && values[i] != value)
        throw UsageError({.what = "two patterns say different things",
                          .where = key,
                          .expected = "one value for " + sites[i]->name,
                          .got = "\"" + printable(*by[i]) + "\" and \"" + printable(pattern) + "\""});
      values[i] = value;
      by[i] = &pattern;
    }
    if (!any) nothing_chosen(pattern, names_of(sites), "target", key);
  }
  return values;
}

std::vector<Strength> strengths_of(const Options& options, const std::vector<nn::WeightSite*>& sites) {
  const std::vector<double> ranks = by_pattern(options.rank_pattern, static_cast<double>(options.rank), sites, "expert.rank_pattern");
  const std::vector<double> alphas = by_pattern(options.alpha_pattern, options.alpha, sites, "expert.alpha_pattern");
  std::vector<Strength> strengths;
  for (std::size_t i = 0; i < sites.size(); ++i) {
    if (ranks[i] != std::floor(ranks[i]) || ranks[i] < 1 || ranks[i] > static_cast<double>(highest_rank))
      throw UsageError({.what = "a rank is no integer from 1 to " + std::to_string(highest_rank),
                        .where = "expert.rank_pattern",
                        .got = std::to_string(ranks[i])});
    strengths.push_back({static_cast<std::int64_t>(ranks[i]), alphas[i]});
  }
  return strengths;
}

class Lora final : public Expert {
 public:
  Lora(const Options& options, const backbones::Backbone& backbone, std::vector<std::string> targets, std::vector<nn::WeightSite*> sites,
       at::Generator& generator)
      : options_(options),
        targets_(std::move(targets)),
        backbone_(&backbone),
        sites_(std::move(sites)),
        strengths_(strengths_of(options, sites_)) {
    for (std::size_t i = 0; i < sites_.size(); ++i) {
      const nn::WeightSite& site = *sites_[i];
      const auto [rank, alpha] = strengths_[i];
      // Kaiming-uniform with a = √5, as nn.Linear and PEFT: U(±1/√in).
      const double bound = 1.0 / std::sqrt(static_cast<double>(site.in));
      const at::Tensor a = options_.init == LoraInit::normal ? normal_leaf({rank, site.in}, 1.0, generator)
                                                             : leaf(at::empty({rank, site.in}).uniform_(-bound, bound, generator));
      const at::Tensor b = leaf(at::zeros({site.out, rank}));
      // B is zero, so that the rows' lengths are the frozen weight's.
      const at::Tensor magnitude = options_.dora ? leaf(site.weight.detach().to(at::kFloat).norm(2, {1})) : at::Tensor();
      const double scale = alpha / (options_.rslora ? std::sqrt(static_cast<double>(rank)) : static_cast<double>(rank));
      terms_.push_back(std::make_unique<nn::LowRank>(nn::LowRank{a, b, scale, options_.dropout, magnitude}));
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
    // Patterns are written out by whole names: PEFT reads them as regular expressions, not as ours.
    Json ranks = Json::object(), alphas = Json::object();
    for (std::size_t i = 0; i < sites_.size(); ++i) {
      if (strengths_[i].rank != options_.rank) ranks[sites_[i]->name] = strengths_[i].rank;
      if (strengths_[i].alpha != options_.alpha) alphas[sites_[i]->name] = strengths_[i].alpha;
    }
    return {{"peft_type", "LORA"},          {"r", options_.rank},
            {"lora_alpha", options_.alpha}, {"rank_pattern", ranks},
            {"alpha_pattern", alphas},      {"use_rslora", options_.rslora},
            {"use_dora", options_.dora},    {"lora_dropout", options_.dropout},
            {"target_modules", targets_},   {"bias", "none"},
            {"fan_in_fan_out", false},      {"inference_mode", true}};
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
  bool mergeable() const override { return true; }
  bool squares_gradients() const override { return true; }

  std::int64_t extra_macs(std::int64_t tokens) const override {
    std::int64_t macs = 0;
    for (std::size_t i = 0; i < sites_.size(); ++i) {
      const nn::WeightSite& site = *sites_[i];
      macs += backbone_->rows_at(site.name, site.layer, tokens) * strengths_[i].rank * (site.in + site.out);
    }
    return macs;
  }

 private:
  Options options_;
  std::vector<std::string> targets_;
  const backbones::Backbone* backbone_;
  std::vector<nn::WeightSite*> sites_;
  std::vector<Strength> strengths_;
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
    v.field("rank", options_.rank, {.help = "rank r of the update", .min = 1, .max = highest_rank});
    v.field("alpha", options_.alpha, {.help = "the update is multiplied by alpha / rank", .above = 0});
    v.field("rslora", options_.rslora, {.help = "multiply by alpha / sqrt(rank) instead (rank-stabilised LoRA)"});
    v.field("dora", options_.dora, {.help = "learn the lengths of the weight's rows apart from their directions (DoRA)"});
    v.choice("init", options_.init,
             {{"kaiming", LoraInit::kaiming, "uniform, as PEFT starts it"},
              {"normal", LoraInit::normal, "normal(0, 1), as the paper's code for APT"}},
             {.help = "start of the first factor; the second starts at zero"});
    v.field("dropout", options_.dropout, {.help = "dropout on the update's input while training", .min = 0, .below = 1});
    v.field("targets", options_.targets,
            {.help = "linear maps that get an update: names, endings of names, or patterns with *", .min_items = 1});
    v.field("rank_pattern", options_.rank_pattern,
            {.help = "other ranks for some of the targets: { \"encoder.layer.0.*\" = 4 }", .min = 1, .max = highest_rank});
    v.field("alpha_pattern", options_.alpha_pattern, {.help = "other values of alpha for some of the targets", .above = 0});
    options_.companions.declare(v, true);
  }

  void read_config(const Json& config, const std::string& where) override {
    read(config, where, "r", options_.rank);
    read(config, where, "lora_alpha", options_.alpha);
    read(config, where, "use_rslora", options_.rslora);
    read(config, where, "use_dora", options_.dora);
    read(config, where, "lora_dropout", options_.dropout);
    read(config, where, "target_modules", options_.targets);
    read(config, where, "rank_pattern", options_.rank_pattern);
    read(config, where, "alpha_pattern", options_.alpha_pattern);
    options_.companions.read_config(config, where, true);
    if (options_.rank < 1 || options_.rank > highest_rank || !(options_.alpha > 0))
      throw Error({.what = "r and lora_alpha must be positive", .where = where});
  }

  std::unique_ptr<Expert> build(backbones::Backbone& backbone, at::Generator generator) const override {
    const std::vector<nn::WeightSite*> sites = chosen_maps(backbone, options_.targets, options_.companions.modules_to_save);
    auto lora = std::make_unique<Lora>(options_, backbone, peft_targets(sites, backbone), sites, generator);
    return options_.companions.around(std::move(lora), backbone, names_of(sites));
  }

 private:
  Options options_;
};

}  // namespace

std::unique_ptr<ExpertRecipe> lora_recipe() {
  return std::make_unique<Recipe>();
}

}  // namespace mmtune::experts
