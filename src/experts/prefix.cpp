// Deep prefixes (Li & Liang 2021, arXiv 2101.00190; P-tuning v2): learned rows in front of the keys and values of every self-attention. One
// table [P, L·2·D] in PEFT's layout: slot 2l holds the keys, slot 2l+1 the values of layer l. As in PEFT, where
// the prefix is a past that was computed before, BERT and RoBERTa number the words behind it.

#include <ATen/ATen.h>

#include "experts/kinds.h"
#include "nn/squared_gradients.h"

namespace mmtune::experts {

namespace {

struct Options {
  std::int64_t length = 20;
  double dropout = 0.0;
  double init_std = 0.02;
};

class Slot final : public nn::KeyValueHook {
 public:
  Slot(at::Tensor table, std::int64_t index, std::int64_t slots, std::int64_t heads, double dropout)
      : table_(std::move(table)), index_(index), slots_(slots), heads_(heads), dropout_(dropout) {}

  nn::KeyValueRows rows(const nn::Context& context) override {
    const at::Tensor all = nn::spread(table_.view({table_.size(0), slots_, 2, heads_, -1}).select(1, index_), context);
    return {nn::dropout(all.select(-3, 0), dropout_, context), nn::dropout(all.select(-3, 1), dropout_, context)};
  }

 private:
  at::Tensor table_;
  std::int64_t index_, slots_, heads_;
  double dropout_;
};

class Prefix final : public Expert {
 public:
  Prefix(const Options& options, std::vector<nn::KeyValueSite*> sites, nn::WordSite* words, at::Generator& generator)
      : options_(options), sites_(std::move(sites)), words_(words) {
    const auto slots = static_cast<std::int64_t>(sites_.size());
    width_ = sites_.front()->heads * sites_.front()->head_width;
    table_ = normal_leaf({options_.length, slots * 2 * width_}, options_.init_std, generator);
    for (std::int64_t i = 0; i < slots; ++i)
      hooks_.push_back(std::make_unique<Slot>(table_, i, slots, sites_[static_cast<std::size_t>(i)]->heads, options_.dropout));
    set_enabled(true);
  }
  ~Prefix() override { set_enabled(false); }

  std::string_view kind() const override { return "prefix"; }
  std::vector<nn::NamedTensor> tensors() const override { return {{"prompt_embeddings", table_}}; }
  Json config() const override {
    return {{"peft_type", "PREFIX_TUNING"},
            {"num_virtual_tokens", options_.length},
            {"num_layers", static_cast<std::int64_t>(sites_.size())},
            {"num_attention_heads", sites_.front()->heads},
            {"token_dim", width_},
            {"num_transformer_submodules", 1},
            {"prefix_projection", false},
            {"inference_mode", true}};
  }
  void set_enabled(bool enabled) override {
    if (enabled == enabled_) return;
    for (std::size_t i = 0; i < sites_.size(); ++i) {
      if (enabled && sites_[i]->hook) throw Error({.what = "another prefix is attached already", .where = sites_[i]->name});
      sites_[i]->hook = enabled ? hooks_[i].get() : nullptr;
    }
    if (words_) words_->first_place += enabled ? options_.length : -options_.length;
    enabled_ = enabled;
  }
  bool enabled() const override { return enabled_; }
  bool squares_gradients() const override { return true; }
  std::int64_t extra_macs(std::int64_t tokens) const override {
    return static_cast<std::int64_t>(sites_.size()) * 2 * tokens * options_.length * width_;
  }

 private:
  Options options_;
  std::vector<nn::KeyValueSite*> sites_;
  nn::WordSite* words_;
  std::int64_t width_ = 0;
  at::Tensor table_;
  std::vector<std::unique_ptr<Slot>> hooks_;
  bool enabled_ = false;
};

class Recipe final : public ExpertRecipe {
 public:
  std::string_view kind() const override { return "prefix"; }
  std::string_view summary() const override { return "rows in front of every attention's keys and values (Li and Liang 2021)"; }
  void declare(OptionVisitor& v) override {
    v.field("length", options_.length, {.help = "rows in front of every attention's keys and values", .min = 1, .max = 65536});
    v.field("dropout", options_.dropout, {.help = "dropout on the prefix while training", .min = 0, .below = 1});
    v.field("init_std", options_.init_std, {.help = "standard deviation of the start values", .above = 0});
  }
  void read_config(const Json& config, const std::string& where) override {
    read(config, where, "num_virtual_tokens", options_.length);
    bool projected = false;
    read(config, where, "prefix_projection", projected);
    if (options_.length < 1 || options_.length > 65536) throw Error({.what = "num_virtual_tokens is out of range", .where = where});
    if (projected) throw Error({.what = "prefix_projection = true is not supported", .where = where, .expected = "false"});
  }
  std::unique_ptr<Expert> build(backbones::Backbone& backbone, at::Generator generator) const override {
    const std::vector<nn::KeyValueSite*>& sites = backbone.sites().keys_values;
    for (const nn::KeyValueSite* site : sites)
      if (site->heads != sites.front()->heads || site->head_width != sites.front()->head_width)
        throw UsageError({.what = "a prefix needs layers of one width",
                          .where = "expert.method = \"prefix\"",
                          .got = "the layers of " + backbone.info().architecture + " differ",
                          .hint = "use method = \"prompt\", deep or not"});
    return std::make_unique<Prefix>(options_, sites, backbone.sites().words, generator);
  }

 private:
  Options options_;
};

}  // namespace

std::unique_ptr<ExpertRecipe> prefix_recipe() {
  return std::make_unique<Recipe>();
}

}  // namespace mmtune::experts
