// Soft prompts in text and vision encoders. Shallow: P learned tokens join the sequence before the first block and leave it after the last
// (prompt tuning, Lester et al. 2021, arXiv 2104.08691; VPT-shallow, Jia et al. 2022, arXiv 2203.12119). Deep: every block gets prompts of
// its own, whose outputs are dropped (VPT-deep). Prompts stand behind the class token and carry no position or segment embedding.

#include <ATen/ATen.h>

#include "experts/kinds.h"

namespace mmtune::experts {

namespace {

struct Options {
  std::int64_t length = 10;
  bool deep = false;
  double dropout = 0.0;
  double init_std = 0.02;
};

class BlockPrompt final : public nn::SequenceHook {
 public:
  BlockPrompt(const nn::SequenceSite& site, const Options& options, at::Tensor table)
      : position_(site.prompt_position), last_(site.last), options_(options), table_(std::move(table)) {}

  void before_block(nn::Tokens& tokens, const nn::Context& context) override {
    if (!options_.deep && tokens.prompt_count > 0) return;
    const at::Tensor prompts = nn::dropout(table_, options_.dropout, context);
    if (tokens.prompt_count > 0) {
      tokens.replace_prompts(prompts);
    } else {
      tokens.insert_prompts(prompts, position_);
    }
  }
  void after_block(nn::Tokens& tokens, const nn::Context&) override {
    if (last_) tokens.remove_prompts();
  }

 private:
  std::int64_t position_;
  bool last_;
  Options options_;
  at::Tensor table_;
};

class Prompt final : public Expert {
 public:
  Prompt(const Options& options, const backbones::Backbone& backbone, std::vector<nn::SequenceSite*> sites, at::Generator& generator)
      : options_(options), backbone_(&backbone), sites_(std::move(sites)) {
    const std::size_t layers = options_.deep ? sites_.size() : 1;
    for (std::size_t i = 0; i < layers; ++i)
      tables_.push_back(normal_leaf({options_.length, sites_[i]->width}, options_.init_std, generator));
    for (std::size_t i = 0; i < sites_.size(); ++i)
      hooks_.push_back(std::make_unique<BlockPrompt>(*sites_[i], options_, tables_[options_.deep ? i : 0]));
    set_enabled(true);
  }
  ~Prompt() override { set_enabled(false); }

  std::string_view kind() const override { return "prompt"; }
  std::vector<nn::NamedTensor> tensors() const override {
    if (!options_.deep) return {{"prompt_embeddings", tables_.front()}};
    std::vector<nn::NamedTensor> named;
    for (std::size_t i = 0; i < sites_.size(); ++i) named.push_back({sites_[i]->name + ".prompt_embeddings", tables_[i]});
    return named;
  }
  Json config() const override {
    return {{"peft_type", options_.deep ? "MMTUNE_DEEP_PROMPT" : "MMTUNE_PROMPT"},
            {"num_virtual_tokens", options_.length},
            {"num_layers", static_cast<std::int64_t>(sites_.size())},
            {"token_dim", sites_.front()->width}};
  }
  void set_enabled(bool enabled) override {
    if (enabled == enabled_) return;
    for (std::size_t i = 0; i < sites_.size(); ++i) {
      if (enabled && sites_[i]->hook) throw Error({.what = "another prompt is attached already", .where = sites_[i]->name});
      sites_[i]->hook = enabled ? hooks_[i].get() : nullptr;
    }
    enabled_ = enabled;
  }
  bool enabled() const override { return enabled_; }
  std::int64_t extra_macs(std::int64_t tokens) const override {
    // Prompts are ordinary tokens in every block.
    return backbone_->macs(tokens + options_.length, false) - backbone_->macs(tokens, false);
  }

 private:
  Options options_;
  const backbones::Backbone* backbone_;
  std::vector<nn::SequenceSite*> sites_;
  std::vector<at::Tensor> tables_;
  std::vector<std::unique_ptr<BlockPrompt>> hooks_;
  bool enabled_ = false;
};

class Recipe final : public ExpertRecipe {
 public:
  std::string_view kind() const override { return "prompt"; }
  std::string_view summary() const override {
    return "tokens in front of the sequence, once or in every block (Lester et al. 2021; Jia et al. 2022)";
  }
  void declare(OptionVisitor& v) override {
    v.field("length", options_.length, {.help = "number of prompt tokens", .min = 1, .max = 65536});
    v.field("deep", options_.deep, {.help = "prompts of its own for every block, instead of one set that travels through all"});
    v.field("dropout", options_.dropout, {.help = "dropout on the prompts while training", .min = 0, .below = 1});
    v.field("init_std", options_.init_std, {.help = "standard deviation of the start values", .above = 0});
  }
  void read_config(const Json& config, const std::string& where) override {
    read(config, where, "num_virtual_tokens", options_.length);
    if (options_.length < 1 || options_.length > 65536) throw Error({.what = "num_virtual_tokens is out of range", .where = where});
    std::string type;
    read(config, where, "peft_type", type);
    options_.deep = type == "MMTUNE_DEEP_PROMPT";
  }
  std::unique_ptr<Expert> build(backbones::Backbone& backbone, at::Generator generator) const override {
    return std::make_unique<Prompt>(options_, backbone, backbone.sites().sequences, generator);
  }

 private:
  Options options_;
};

}  // namespace

std::unique_ptr<ExpertRecipe> prompt_recipe() {
  return std::make_unique<Recipe>();
}

}  // namespace mmtune::experts
