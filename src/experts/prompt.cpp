// Soft prompts in text and vision encoders. Shallow: P learned tokens join the sequence before the first block and leave it after the last
// (prompt tuning, Lester et al. 2021, arXiv 2104.08691; VPT-shallow, Jia et al. 2022, arXiv 2203.12119). Deep: every block gets prompts of
// its own, whose outputs are dropped (VPT-deep). Prompts stand behind the class token and carry no position or segment embedding.

#include <ATen/ATen.h>

#include "experts/kinds.h"
#include "nn/squared_gradients.h"

namespace mmtune::experts {

namespace {

enum class Place { blocks, words };

struct Options {
  std::int64_t length = 10;
  Place place = Place::blocks;
  bool deep = false;
  bool once = true;
  double dropout = 0.0;
  double init_std = 0.02;
};

class BlockPrompt final : public nn::SequenceHook {
 public:
  BlockPrompt(const nn::SequenceSite& site, const Options& options, at::Tensor table)
      : position_(site.prompt_position), last_(site.last), options_(options), table_(std::move(table)) {}

  void before_block(nn::Tokens& tokens, const nn::Context& context) override {
    if (!options_.deep && tokens.prompt_count > 0) return;
    at::Tensor prompts = nn::spread(table_, context);
    if (context.training && options_.dropout > 0) {
      // Every example drops values of its own.
      if (prompts.dim() == 2) prompts = prompts.unsqueeze(0).expand({tokens.layout.batch(), table_.size(0), table_.size(1)});
      prompts = nn::dropout(prompts, options_.dropout, context);
    }
    if (tokens.prompt_count > 0) {
      tokens.replace_prompts(prompts);
    } else {
      tokens.insert_prompts(prompts, position_);
    }
    // The next block brings its own, and behind the last one they are taken out.
    tokens.prompts_end = options_.deep;
  }
  void after_block(nn::Tokens& tokens, const nn::Context&) override {
    if (last_ && tokens.prompt_count > 0) tokens.remove_prompts();
  }

 private:
  std::int64_t position_;
  bool last_;
  Options options_;
  at::Tensor table_;
};

/// The same as keys and values: what the block's own maps make of the prompts does not depend on the example, and their queries are
/// nobody's.
class AttendedPrompt final : public nn::KeyValueHook {
 public:
  AttendedPrompt(const nn::KeyValueSite& site, at::Tensor table) : site_(&site), table_(std::move(table)) {}
  nn::KeyValueRows rows(const nn::Context& context) override {
    if (context.examples == 0) return site_->project(table_, context);
    // Prompts of its own for every example.
    const nn::KeyValueRows made = site_->project(nn::spread(table_, context).view({-1, table_.size(1)}), context);
    const auto apart = [&](const at::Tensor& rows) { return rows.view({context.examples, -1, rows.size(1), rows.size(2)}); };
    return {apart(made.keys), apart(made.values)};
  }

 private:
  const nn::KeyValueSite* site_;
  at::Tensor table_;
};

/// Whether keys and values are all that deep prompts leave behind in a block, and each block has one attention.
bool only_attended(const Options& options, backbones::Backbone& backbone) {
  const std::vector<nn::SequenceSite*>& blocks = backbone.sites().sequences;
  const std::vector<nn::KeyValueSite*>& attentions = backbone.sites().keys_values;
  if (!options.deep || !options.once || options.dropout > 0 || !prompts_end(backbone, blocks)) return false;
  if (blocks.size() != attentions.size()) return false;
  for (std::size_t i = 0; i < blocks.size(); ++i)
    if (!attentions[i]->project || !attentions[i]->name.starts_with(blocks[i]->name + ".")) return false;
  return true;
}

class Prompt final : public Expert {
 public:
  Prompt(const Options& options, backbones::Backbone& backbone, at::Generator& generator)
      : options_(options), backbone_(&backbone), sites_(backbone.sites().sequences) {
    const std::size_t layers = options_.deep ? sites_.size() : 1;
    for (std::size_t i = 0; i < layers; ++i)
      tables_.push_back(normal_leaf({options_.length, sites_[i]->width}, options_.init_std, generator));
    if (only_attended(options_, backbone)) {
      attentions_ = backbone.sites().keys_values;
      for (std::size_t i = 0; i < layers; ++i) attended_.push_back(std::make_unique<AttendedPrompt>(*attentions_[i], tables_[i]));
    } else {
      for (std::size_t i = 0; i < sites_.size(); ++i)
        hooks_.push_back(std::make_unique<BlockPrompt>(*sites_[i], options_, tables_[options_.deep ? i : 0]));
    }
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
            {"token_dim", sites_.front()->width},
            {"once", options_.once}};
  }
  void set_enabled(bool enabled) override {
    if (enabled == enabled_) return;
    const auto put = [enabled](auto& site, auto* hook) {
      if (enabled && site.hook) throw Error({.what = "another prompt or prefix is attached already", .where = site.name});
      site.hook = enabled ? hook : nullptr;
    };
    for (std::size_t i = 0; i < hooks_.size(); ++i) put(*sites_[i], hooks_[i].get());
    for (std::size_t i = 0; i < attended_.size(); ++i) put(*attentions_[i], attended_[i].get());
    enabled_ = enabled;
  }
  bool enabled() const override { return enabled_; }
  bool squares_gradients() const override { return true; }
  std::int64_t extra_macs(std::int64_t tokens) const override {
    if (options_.deep && prompts_end(*backbone_, sites_)) return ending_prompt_macs(sites_, tokens, options_.length);
    // Prompts are ordinary tokens in every block.
    return backbone_->macs(tokens + options_.length, false) - backbone_->macs(tokens, false);
  }

 private:
  Options options_;
  const backbones::Backbone* backbone_;
  std::vector<nn::SequenceSite*> sites_;
  std::vector<nn::KeyValueSite*> attentions_;
  std::vector<at::Tensor> tables_;
  std::vector<std::unique_ptr<BlockPrompt>> hooks_;
  std::vector<std::unique_ptr<AttendedPrompt>> attended_;  ///< instead of hooks_
  bool enabled_ = false;
};

/// PEFT's prompt tuning: rows in front of a text's words, with positions of their own, that stay among the outputs.
class WordPrompt final : public Expert {
 public:
  WordPrompt(const Options& options, backbones::Backbone& backbone, at::Generator& generator)
      : options_(options), backbone_(&backbone), table_(normal_leaf({options.length, words().width}, options.init_std, generator)) {
    set_enabled(true);
  }
  ~WordPrompt() override { set_enabled(false); }

  std::string_view kind() const override { return "prompt"; }
  std::vector<nn::NamedTensor> tensors() const override { return {{"prompt_embeddings", table_}}; }
  Json config() const override {
    return {{"peft_type", "PROMPT_TUNING"},
            {"num_virtual_tokens", options_.length},
            {"num_layers", backbone_->info().layers},
            {"num_attention_heads", backbone_->info().heads},
            {"token_dim", words().width},
            {"num_transformer_submodules", 1},
            {"prompt_tuning_init", "RANDOM"},
            {"inference_mode", true}};
  }
  void set_enabled(bool enabled) override {
    if (enabled == enabled_) return;
    if (enabled && words().prompts.defined()) throw Error({.what = "another prompt is attached already", .where = words().name});
    words().prompts = enabled ? table_ : at::Tensor();
    words().dropout = enabled ? options_.dropout : 0.0;
    enabled_ = enabled;
  }
  bool enabled() const override { return enabled_; }
  bool squares_gradients() const override { return true; }
  std::int64_t extra_macs(std::int64_t tokens) const override {
    return backbone_->macs(tokens + options_.length, false) - backbone_->macs(tokens, false);
  }

 private:
  nn::WordSite& words() const { return *backbone_->sites().words; }

  Options options_;
  backbones::Backbone* backbone_;
  at::Tensor table_;
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
    v.choice("place", options_.place,
             {{"blocks", Place::blocks, "behind the first token of the first block"},
              {"words", Place::words, "in front of the words, before positions are added: PEFT's prompt tuning (BERT, RoBERTa)"}},
             {.help = "where the prompt joins a sequence"});
    v.field("deep", options_.deep, {.help = "prompts of its own for every block, instead of one set that travels through all"});
    v.require("deep", !(options_.deep && options_.place == Place::words), "place = \"blocks\"");
    v.field(
        "once", options_.once,
        {.help = "deep: compute the prompts' keys and values once for all examples of a batch, where nothing else comes of them (the same "
                 "result; dropout on the prompts or a causal encoder prevents it)"});
    v.field("dropout", options_.dropout, {.help = "dropout on the prompts while training", .min = 0, .below = 1});
    v.field("init_std", options_.init_std, {.help = "standard deviation of the start values", .above = 0});
  }
  void read_config(const Json& config, const std::string& where) override {
    read(config, where, "num_virtual_tokens", options_.length);
    if (options_.length < 1 || options_.length > 65536) throw Error({.what = "num_virtual_tokens is out of range", .where = where});
    read(config, where, "once", options_.once);
    std::string type;
    read(config, where, "peft_type", type);
    options_.deep = type == "MMTUNE_DEEP_PROMPT";
    options_.place = type == "PROMPT_TUNING" ? Place::words : Place::blocks;
  }
  std::unique_ptr<Expert> build(backbones::Backbone& backbone, at::Generator generator) const override {
    if (options_.place == Place::blocks) return std::make_unique<Prompt>(options_, backbone, generator);
    if (!backbone.sites().words)
      throw UsageError({.what = "only BERT and RoBERTa take a prompt among their words",
                        .where = "expert.place",
                        .expected = "\"blocks\"",
                        .got = "\"words\" on " + backbone.info().architecture});
    return std::make_unique<WordPrompt>(options_, backbone, generator);
  }

 private:
  Options options_;
};

}  // namespace

std::unique_ptr<ExpertRecipe> prompt_recipe() {
  return std::make_unique<Recipe>();
}

}  // namespace mmtune::experts
