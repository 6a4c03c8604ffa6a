// Ladder side-tuning (Sung, Cho and Bansal 2022, arXiv 2206.06522): a narrow transformer beside the frozen backbone. Its state starts as a
// projection of the first block's input; behind every block it takes that block's output in through a projection and runs a block of its
// own; at the end it is projected back and added to the last block's output. Nothing is back-propagated through the backbone.
//
// As the paper has it: s <- mu s + (1 - mu) Down(h) with a learned gate mu a block. Our choices: blocks are pre-norm; the projection at the
// end starts at zero, so that training starts at the frozen model; where a backbone merges neighbouring patches, so does the state, by
// their mean; where its layers have two streams of tokens (METER), a ladder stands beside each, and what one stream is told of the other
// comes from the backbone's own cross-attention.

#include <ATen/ATen.h>

#include <map>
#include <numeric>

#include "core/error.h"
#include "experts/kinds.h"
#include "nn/layers.h"
#include "nn/squared_gradients.h"

namespace mmtune::experts {

namespace {

struct Options {
  std::int64_t reduction = 8;
  double inner_ratio = 4.0;
  bool gated = true;
  double dropout = 0.0;
  double init_std = 0.02;
};

constexpr double epsilon = 1e-5;
/// The paper's gate: sigmoid(alpha / 0.1).
constexpr double gate_temperature = 0.1;
constexpr std::int64_t usual_head_width = 64;

/// Linear map [out, in] with a bias that starts at zero.
struct Map {
  Map(std::int64_t in, std::int64_t out, double std, at::Generator& generator)
      : weight(normal_leaf({out, in}, std, generator)), bias(leaf(at::zeros({out}))) {}
  at::Tensor operator()(const at::Tensor& x, const nn::Context& context) const { return nn::learned_linear(x, weight, bias, context); }
  void list(const std::string& name, std::vector<nn::NamedTensor>& named) const {
    named.push_back({name + ".weight", weight});
    named.push_back({name + ".bias", bias});
  }
  std::int64_t macs() const { return weight.numel(); }

  at::Tensor weight, bias;
};

struct Norm {
  explicit Norm(std::int64_t width) : weight(leaf(at::ones({width}))), bias(leaf(at::zeros({width}))) {}
  at::Tensor operator()(const at::Tensor& x, const nn::Context& context) const {
    return nn::learned_norm(x, weight, bias, epsilon, context);
  }
  void list(const std::string& name, std::vector<nn::NamedTensor>& named) const {
    named.push_back({name + ".weight", weight});
    named.push_back({name + ".bias", bias});
  }

  at::Tensor weight, bias;
};

/// What the side network has for one block of the backbone.
struct Rung {
  Rung(const Options& options, std::int64_t backbone_width, std::int64_t width, at::Generator& generator)
      : down(backbone_width, width, options.init_std, generator),
        gate(leaf(at::zeros({1}))),
        norm_before(width),
        qkv(width, 3 * width, options.init_std, generator),
        attention_output(width, width, options.init_std, generator),
        norm_after(width),
        up_inner(width, inner(options, width), options.init_std, generator),
        down_inner(inner(options, width), width, options.init_std, generator) {}

  static std::int64_t inner(const Options& options, std::int64_t width) {
    return std::max<std::int64_t>(static_cast<std::int64_t>(options.inner_ratio * static_cast<double>(width)), 1);
  }

  /// State and block output, rows [N, w] and [N, D] → the new state.
  at::Tensor climb(const at::Tensor& state, const at::Tensor& output, const nn::Layout& layout, std::int64_t heads, bool causal,
                   const Options& options, const nn::Context& context) const {
    at::Tensor x = down(output, context);
    if (options.gated) {
      const at::Tensor kept = at::sigmoid(nn::spread_rows(gate, x.size(0), context) / gate_temperature);
      x = kept * state + (1 - kept) * x;
    } else {
      x = x + state;
    }
    const std::vector<at::Tensor> parts = qkv(norm_before(x, context), context).chunk(3, 1);
    const at::Tensor attended =
        nn::attention(parts[0].contiguous(), parts[1].contiguous(), parts[2].contiguous(), heads, layout, layout, {.causal = causal});
    x = x + nn::dropout(attention_output(attended, context), options.dropout, context);
    return x + nn::dropout(down_inner(at::gelu(up_inner(norm_after(x, context), context)), context), options.dropout, context);
  }

  void list(const std::string& name, const Options& options, std::vector<nn::NamedTensor>& named) const {
    down.list(name + ".ladder.down", named);
    if (options.gated) named.push_back({name + ".ladder.gate", gate});
    norm_before.list(name + ".ladder.norm_before", named);
    qkv.list(name + ".ladder.qkv", named);
    attention_output.list(name + ".ladder.attention_output", named);
    norm_after.list(name + ".ladder.norm_after", named);
    up_inner.list(name + ".ladder.up", named);
    down_inner.list(name + ".ladder.down_inner", named);
  }

  Map down;
  at::Tensor gate;
  Norm norm_before;
  Map qkv, attention_output;
  Norm norm_after;
  Map up_inner, down_inner;
};

/// The 2 x 2 neighbours of every patch that was merged, averaged: [B*H*W, w] → [B*ceil(H/2)*ceil(W/2), w].
at::Tensor merged(const at::Tensor& state, std::int64_t batch, std::int64_t columns) {
  const std::int64_t width = state.size(1);
  const at::Tensor map = state.view({batch, -1, columns, width}).permute({0, 3, 1, 2});
  const at::Tensor halved = at::avg_pool2d(map, {2, 2}, {2, 2}, {0, 0}, true, false);
  return halved.permute({0, 2, 3, 1}).reshape({-1, width});
}

/// The ladder beside one stream of tokens; a hook on each of its blocks.
class Side {
 public:
  Side(const Options& options, std::string name, std::vector<nn::SequenceSite*> sites, at::Generator& generator)
      : options_(&options),
        name_(std::move(name)),
        sites_(std::move(sites)),
        width_(std::max<std::int64_t>(sites_.back()->width / options.reduction, 1)),
        heads_(std::gcd(width_, std::max<std::int64_t>(width_ / usual_head_width, 1))),
        start_(sites_.front()->width, width_, options.init_std, generator),
        norm_(width_),
        end_(width_, sites_.back()->width, 0.0, generator) {
    for (std::size_t i = 0; i < sites_.size(); ++i) {
      rungs_.emplace_back(options, sites_[i]->width, width_, generator);
      hooks_.push_back(std::make_unique<Step>(*this, i));
    }
  }

  void list(std::vector<nn::NamedTensor>& named) const {
    start_.list(name_ + ".start", named);
    for (std::size_t i = 0; i < sites_.size(); ++i) rungs_[i].list(sites_[i]->name, *options_, named);
    norm_.list(name_ + ".norm", named);
    end_.list(name_ + ".end", named);
  }
  void set_enabled(bool enabled) {
    for (std::size_t i = 0; i < sites_.size(); ++i) {
      if (enabled && sites_[i]->hook) throw Error({.what = "another expert works on the tokens of this block", .where = sites_[i]->name});
      sites_[i]->hook = enabled ? hooks_[i].get() : nullptr;
    }
  }
  std::int64_t macs(const backbones::Backbone& backbone, std::int64_t tokens) const {
    const auto rows_at = [&](std::size_t i) { return backbone.rows_at(sites_[i]->name, sites_[i]->layer, tokens); };
    std::int64_t total = rows_at(0) * start_.macs() + rows_at(sites_.size() - 1) * end_.macs();
    for (std::size_t i = 0; i < rungs_.size(); ++i) {
      const Rung& rung = rungs_[i];
      const std::int64_t rows = rows_at(i);
      total += rows * (rung.down.macs() + rung.qkv.macs() + rung.attention_output.macs() + rung.up_inner.macs() + rung.down_inner.macs()) +
               2 * rows * rows * width_;
    }
    return total;
  }

 private:
  class Step final : public nn::SequenceHook {
   public:
    Step(Side& side, std::size_t rung) : side_(&side), rung_(rung) {}
    void before_block(nn::Tokens& tokens, const nn::Context& context) override { side_->before_block(rung_, tokens, context); }
    void after_block(nn::Tokens& tokens, const nn::Context& context) override { side_->after_block(rung_, tokens, context); }

   private:
    Side* side_;
    std::size_t rung_;
  };

  void before_block(std::size_t rung, const nn::Tokens& tokens, const nn::Context& context) {
    if (rung == 0) {
      state_ = start_(tokens.rows.detach(), context);
    } else if (state_.size(0) != tokens.rows.size(0)) {
      state_ = merged(state_, tokens.layout.batch(), columns_);
    }
    columns_ = tokens.columns;
  }
  void after_block(std::size_t rung, nn::Tokens& tokens, const nn::Context& context) {
    const nn::SequenceSite& site = *sites_[rung];
    state_ = rungs_[rung].climb(state_, tokens.rows.detach(), tokens.layout, heads_, site.causal, *options_, context);
    if (!site.last) return;
    tokens.rows = tokens.rows + end_(norm_(state_, context), context);
    state_.reset();
  }

  const Options* options_;
  std::string name_;
  std::vector<nn::SequenceSite*> sites_;
  std::int64_t width_, heads_;
  Map start_;
  std::vector<Rung> rungs_;
  Norm norm_;
  Map end_;
  std::vector<std::unique_ptr<Step>> hooks_;
  at::Tensor state_;          ///< of the forward pass that is under way, [N, w]
  std::int64_t columns_ = 0;  ///< of the rows that state_ has
};

/// The blocks of every stream: a layer's first block belongs to the first one, and so on.
std::vector<std::vector<nn::SequenceSite*>> streams_of(const std::vector<nn::SequenceSite*>& sites) {
  std::vector<std::vector<nn::SequenceSite*>> streams;
  std::map<std::int64_t, std::size_t> seen;
  for (nn::SequenceSite* site : sites) {
    const std::size_t stream = seen[site->layer]++;
    if (stream == streams.size()) streams.emplace_back();
    streams[stream].push_back(site);
  }
  return streams;
}

class Ladder final : public Expert {
 public:
  Ladder(const Options& options, backbones::Backbone& backbone, at::Generator& generator) : options_(options), backbone_(&backbone) {
    const auto streams = streams_of(backbone.sites().sequences);
    for (std::size_t i = 0; i < streams.size(); ++i) {
      const std::string name = streams.size() == 1 ? "ladder" : "ladder." + std::to_string(i);
      sides_.push_back(std::make_unique<Side>(options_, name, streams[i], generator));
    }
    set_enabled(true);
  }
  ~Ladder() override { set_enabled(false); }

  std::string_view kind() const override { return "ladder"; }
  std::vector<nn::NamedTensor> tensors() const override {
    std::vector<nn::NamedTensor> named;
    for (const auto& side : sides_) side->list(named);
    return named;
  }
  Json config() const override {
    return {{"peft_type", "MMTUNE_LADDER"},
            {"reduction", options_.reduction},
            {"inner_ratio", options_.inner_ratio},
            {"gated", options_.gated},
            {"dropout", options_.dropout}};
  }
  void set_enabled(bool enabled) override {
    if (enabled == enabled_) return;
    for (const auto& side : sides_) side->set_enabled(enabled);
    enabled_ = enabled;
  }
  bool enabled() const override { return enabled_; }
  bool beside_backbone() const override { return true; }
  bool squares_gradients() const override { return true; }
  std::int64_t extra_macs(std::int64_t tokens) const override {
    std::int64_t total = 0;
    for (const auto& side : sides_) total += side->macs(*backbone_, tokens);
    return total;
  }

 private:
  Options options_;
  const backbones::Backbone* backbone_;
  std::vector<std::unique_ptr<Side>> sides_;
  bool enabled_ = false;
};

class Recipe final : public ExpertRecipe {
 public:
  std::string_view kind() const override { return "ladder"; }
  std::string_view summary() const override { return "a narrow network beside the backbone that reads its blocks (Sung et al. 2022)"; }
  void declare(OptionVisitor& v) override {
    v.field("reduction", options_.reduction,
            {.help = "the side network is this many times narrower than the backbone", .min = 1, .max = 1024});
    v.field("inner_ratio", options_.inner_ratio, {.help = "width of its feed-forward part, in widths of the side network", .above = 0});
    v.field("gated", options_.gated, {.help = "learn how much of its state every block keeps, instead of adding the block's output"});
    v.field("dropout", options_.dropout, {.help = "dropout in its blocks while training", .min = 0, .below = 1});
    v.field("init_std", options_.init_std, {.help = "standard deviation of the start values", .above = 0});
  }
  void read_config(const Json& config, const std::string& where) override {
    read(config, where, "reduction", options_.reduction);
    if (options_.reduction < 1 || options_.reduction > 1024) throw Error({.what = "reduction is out of range", .where = where});
    read(config, where, "inner_ratio", options_.inner_ratio);
    if (!(options_.inner_ratio > 0 && options_.inner_ratio <= 1024)) throw Error({.what = "inner_ratio is out of range", .where = where});
    read(config, where, "gated", options_.gated);
    read(config, where, "dropout", options_.dropout);
  }
  std::unique_ptr<Expert> build(backbones::Backbone& backbone, at::Generator generator) const override {
    if (backbone.sites().sequences.empty())
      throw UsageError({.what = "the backbone gives no access to the tokens between its layers",
                        .where = "expert.method = \"ladder\"",
                        .got = backbone.info().architecture});
    return std::make_unique<Ladder>(options_, backbone, generator);
  }

 private:
  Options options_;
};

}  // namespace

std::unique_ptr<ExpertRecipe> ladder_recipe() {
  return std::make_unique<Recipe>();
}

}  // namespace mmtune::experts
