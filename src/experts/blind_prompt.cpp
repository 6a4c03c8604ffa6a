// BlindPrompt (Liang et al. 2022, arXiv 2203.08055): prompts at the input of a frozen encoder which an attention mask keeps from seeing the
// example. Every row attends to the prompts, the prompts attend to nothing but themselves. This is our reading of the paper, whose mask we
// know from its description only.
//
// What blind prompts become in a block is then the same for every example. So they take their way through the blocks alone, once a pass and
// not once an example, and the example's rows find them among the keys and values: the masked attention exactly, without a mask.

#include <ATen/ATen.h>

#include <algorithm>

#include "backbones/stepwise.h"
#include "core/error.h"
#include "experts/kinds.h"

namespace mmtune::experts {

namespace {

struct Options {
  std::int64_t length = 10;
  double init_std = 0.02;
};

class BlindPrompt final : public Expert {
 public:
  BlindPrompt(const Options& options, backbones::Backbone& backbone, at::Generator& generator)
      : options_(options),
        blocks_(&backbones::stepwise(backbone, "expert.method = \"blind_prompt\"")),
        sites_(backbone.sites().keys_values) {
    table_ = normal_leaf({options_.length, backbone.info().width}, options_.init_std, generator);
    for (std::size_t block = 0; block < sites_.size(); ++block) hooks_.push_back(std::make_unique<Rows>(*this, block));
    set_enabled(true);
  }
  ~BlindPrompt() override { set_enabled(false); }

  std::string_view kind() const override { return "blind_prompt"; }
  std::vector<nn::NamedTensor> tensors() const override { return {{"prompt_embeddings", table_}}; }
  Json config() const override {
    return {{"peft_type", "MMTUNE_BLIND_PROMPT"},
            {"num_virtual_tokens", options_.length},
            {"num_layers", static_cast<std::int64_t>(sites_.size())},
            {"token_dim", table_.size(1)}};
  }
  void set_enabled(bool enabled) override {
    if (enabled == enabled_) return;
    for (std::size_t block = 0; block < sites_.size(); ++block) {
      if (enabled && sites_[block]->hook) throw Error({.what = "another prefix is attached already", .where = sites_[block]->name});
      sites_[block]->hook = enabled ? hooks_[block].get() : nullptr;
    }
    enabled_ = enabled;
  }
  bool enabled() const override { return enabled_; }
  /// The prompts' own way counts for no example; what an example pays for is its rows' attention to them.
  std::int64_t extra_macs(std::int64_t tokens) const override {
    std::int64_t total = 0;
    for (const nn::KeyValueSite* site : sites_) total += 2 * tokens * options_.length * site->heads * site->head_width;
    return total;
  }

 private:
  class Rows final : public nn::KeyValueHook {
   public:
    Rows(BlindPrompt& expert, std::size_t block) : expert_(expert), block_(block) {}
    nn::KeyValueRows rows(const nn::Context& context) override { return expert_.rows(block_, context); }

   private:
    BlindPrompt& expert_;
    std::size_t block_;
  };

  /// Takes the hooks off while the prompts are on their way.
  class HooksOff {
   public:
    explicit HooksOff(const std::vector<nn::KeyValueSite*>& sites) : sites_(sites) {
      for (nn::KeyValueSite* site : sites_) hooks_.push_back(std::exchange(site->hook, nullptr));
    }
    ~HooksOff() {
      for (std::size_t i = 0; i < sites_.size(); ++i) sites_[i]->hook = hooks_[i];
    }
    HooksOff(const HooksOff&) = delete;
    HooksOff& operator=(const HooksOff&) = delete;

   private:
    const std::vector<nn::KeyValueSite*>& sites_;
    std::vector<nn::KeyValueHook*> hooks_;
  };

  /// Keys and values of the blocks up to `last`.
  std::vector<nn::KeyValueRows> way(std::size_t last, const nn::Context& context) const {
    const HooksOff off(sites_);
    nn::Tokens tokens{table_, nn::Layout::uniform(1, options_.length)};
    std::vector<nn::KeyValueRows> all;
    for (std::size_t block = 0; block <= last; ++block) {
      const nn::KeyValueSite& site = *sites_[block];
      const auto number = static_cast<std::int64_t>(block);
      const nn::KeyValueRows flat = blocks_->keys_values(number, tokens.rows, context);
      all.push_back({flat.keys.view({options_.length, site.heads, site.head_width}),
                     flat.values.view({options_.length, site.heads, site.head_width})});
      if (block < last) blocks_->step(number, tokens, backbones::StepRows::all, context);
    }
    return all;
  }

  nn::KeyValueRows rows(std::size_t block, const nn::Context& context) {
    // A block that is computed again must make its own graph, from the table on.
    if (context.recompute) return way(block, context).back();
    if (block == 0) rows_ = way(sites_.size() - 1, context);
    nn::KeyValueRows own = std::move(rows_.at(block));
    return own;
  }

  Options options_;
  const backbones::Stepwise* blocks_;
  std::vector<nn::KeyValueSite*> sites_;
  at::Tensor table_;
  std::vector<std::unique_ptr<Rows>> hooks_;
  std::vector<nn::KeyValueRows> rows_;  ///< of the pass at hand, each handed out once
  bool enabled_ = false;
};

class Recipe final : public ExpertRecipe {
 public:
  std::string_view kind() const override { return "blind_prompt"; }
  std::string_view summary() const override { return "prompts that every row sees and that see only themselves (Liang et al. 2022)"; }
  void declare(OptionVisitor& v) override {
    v.field("length", options_.length, {.help = "number of prompt tokens", .min = 1, .max = 65536});
    v.field("init_std", options_.init_std, {.help = "standard deviation of the start values", .above = 0});
  }
  void read_config(const Json& config, const std::string& where) override {
    read(config, where, "num_virtual_tokens", options_.length);
    if (options_.length < 1 || options_.length > 65536) throw Error({.what = "num_virtual_tokens is out of range", .where = where});
  }
  std::unique_ptr<Expert> build(backbones::Backbone& backbone, at::Generator generator) const override {
    return std::make_unique<BlindPrompt>(options_, backbone, generator);
  }

 private:
  Options options_;
};

}  // namespace

std::unique_ptr<ExpertRecipe> blind_prompt_recipe() {
  return std::make_unique<Recipe>();
}

}  // namespace mmtune::experts
