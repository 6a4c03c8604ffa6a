// PMF (Li, Quan, Zhu, Yang 2023, "Efficient Multimodal Fusion via Interactive Prompting", arXiv 2304.06306): two frozen encoders in step.
// The lower blocks run alone; each of the last few gets prompts of three roles, in two stages:
//   query    rows, query-context prompts and query prompts pass the tower's block; what becomes of the query prompts is mapped into the
//   other
//            tower's width: the message;
//   fusion   rows, fusion-context prompts and the other tower's message pass the same block; the rows go on, the prompts are dropped.
// Nothing is back-propagated into the lower blocks. Our reading of the paper, which we know from its description: the roles and stages are
// its own; that a role has the same length in both towers, the map's width, and which rows are computed in the query stage (those that the
// message is made of, no others) are ours.

#include <ATen/ATen.h>

#include <algorithm>

#include "core/error.h"
#include "experts/joint.h"
#include "experts/kinds.h"

namespace mmtune::experts {

namespace {

using backbones::StepRows;
using backbones::Stepwise;

constexpr const char* method = "expert.method = \"pmf\"";

struct Options {
  std::int64_t length = 4;
  std::int64_t layers = 2;
  std::int64_t map_width = 64;
  double dropout = 0.0;
  double init_std = 0.02;
  std::int64_t other_width = 0;
};

/// What one tower has in one of the last blocks.
struct Roles {
  at::Tensor query, query_context, fusion_context;  ///< [P, D]
  at::Tensor down, down_bias, up, up_bias;          ///< the map D → map_width → the other's D

  void list(const std::string& prefix, std::vector<nn::NamedTensor>& named) const {
    named.push_back({prefix + "query", query});
    named.push_back({prefix + "query_context", query_context});
    named.push_back({prefix + "fusion_context", fusion_context});
    named.push_back({prefix + "map.0.weight", down});
    named.push_back({prefix + "map.0.bias", down_bias});
    named.push_back({prefix + "map.2.weight", up});
    named.push_back({prefix + "map.2.bias", up_bias});
  }
};

class Pmf final : public JointExpert {
 public:
  Pmf(const Options& options, backbones::Backbone& backbone, at::Generator& generator) : options_(options), backbone_(&backbone) {
    const backbones::BackboneInfo& info = backbone.info();
    backbones::stepwise(backbone, method);
    if (options_.other_width <= 0)
      throw UsageError({.what = "this expert needs a second tower, to exchange prompts with",
                        .where = method,
                        .hint = "name the second tower in backbone.condition"});
    check_depth(backbone);
    for (std::int64_t i = 0; i < options_.layers; ++i) {
      main_.push_back(roles(info.width, options_.other_width, generator));
      other_.push_back(roles(options_.other_width, info.width, generator));
    }
  }

  std::string_view kind() const override { return "pmf"; }
  /// Below the main tower's block: "main.…" and "other.…", the other tower's block that keeps step with it.
  std::vector<nn::NamedTensor> tensors() const override {
    std::vector<nn::NamedTensor> named;
    const auto& sites = backbone_->sites().sequences;
    for (std::size_t i = 0; i < main_.size(); ++i) {
      const std::string block = sites[sites.size() - main_.size() + i]->name;
      main_[i].list(block + ".main.", named);
      other_[i].list(block + ".other.", named);
    }
    return named;
  }
  Json config() const override {
    return {{"peft_type", "MMTUNE_PMF"},
            {"num_virtual_tokens", options_.length},
            {"fusion_layers", options_.layers},
            {"map_width", options_.map_width},
            {"dropout", options_.dropout},
            {"token_dim", backbone_->info().width},
            {"other_token_dim", options_.other_width}};
  }
  void set_enabled(bool enabled) override { enabled_ = enabled; }
  bool enabled() const override { return enabled_; }
  std::vector<std::int64_t> complementary_widths() const override { return {options_.other_width}; }

  std::int64_t extra_macs(std::int64_t tokens) const override { return side_macs(main_, tokens); }
  std::int64_t other_macs(std::int64_t tokens) const override { return side_macs(other_, tokens); }
  std::int64_t other_blocks() const override { return options_.layers; }

  Outputs forward(const Side& main, const Side& other, const nn::Context& context) const override {
    const Stepwise& a = backbones::stepwise(main.backbone, method);
    const Stepwise& b = backbones::stepwise(other.backbone, method);
    check_depth(other.backbone);
    refuse_prompts(main.backbone);
    refuse_prompts(other.backbone);
    nn::Tokens x = a.enter(main.inputs, context), y = b.enter(other.inputs, context);
    MMTUNE_ASSERT(x.layout.batch() == y.layout.batch());
    const std::int64_t fused = enabled_ ? options_.layers : 0;
    const std::int64_t below_a = main.backbone.info().layers - fused, below_b = other.backbone.info().layers - fused;
    for (std::int64_t i = 0; i < below_a; ++i) a.step(i, x, StepRows::all, context);
    for (std::int64_t i = 0; i < below_b; ++i) b.step(i, y, StepRows::all, context);
    for (std::int64_t i = 0; i < fused; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const at::Tensor to_b = message(a, below_a + i, main.backbone, x, main_[at], context);
      const at::Tensor to_a = message(b, below_b + i, other.backbone, y, other_[at], context);
      fuse(a, below_a + i, main.backbone, x, main_[at], to_a, context);
      fuse(b, below_b + i, other.backbone, y, other_[at], to_b, context);
    }
    return {a.leave(x, context), b.leave(y, context)};
  }

 private:
  Roles roles(std::int64_t width, std::int64_t other, at::Generator& generator) const {
    const auto prompts = [&] { return normal_leaf({options_.length, width}, options_.init_std, generator); };
    Roles made{.query = prompts(), .query_context = prompts(), .fusion_context = prompts()};
    made.down = normal_leaf({options_.map_width, width}, options_.init_std, generator);
    made.down_bias = leaf(at::zeros({options_.map_width}));
    made.up = normal_leaf({other, options_.map_width}, options_.init_std, generator);
    made.up_bias = leaf(at::zeros({other}));
    return made;
  }

  void check_depth(const backbones::Backbone& backbone) const {
    if (options_.layers <= backbone.info().layers) return;
    throw UsageError({.what = "more layers are to be fused than the backbone has",
                      .where = "expert.layers",
                      .expected = "at most " + std::to_string(backbone.info().layers) + " (" + backbone.info().architecture + ")",
                      .got = std::to_string(options_.layers)});
  }

  /// The blocks are run without the hooks of their sequences: what hangs there would be passed over in silence.
  static void refuse_prompts(backbones::Backbone& backbone) {
    for (const nn::SequenceSite* site : backbone.sites().sequences)
      if (site->hook != nullptr)
        throw UsageError({.what = "another prompt is attached to a tower of this expert", .where = method, .got = site->name});
  }

  static std::int64_t place(backbones::Backbone& backbone, std::int64_t block) {
    return backbone.sites().sequences.at(static_cast<std::size_t>(block))->prompt_position;
  }

  /// [B, P, the other's D]
  at::Tensor message(const Stepwise& blocks, std::int64_t block, backbones::Backbone& backbone, const nn::Tokens& tokens, const Roles& own,
                     const nn::Context& context) const {
    nn::Tokens asked = tokens;
    asked.insert_prompts(at::cat({own.query_context, own.query}), place(backbone, block));
    blocks.step(block, asked, StepRows::prompts, context);
    const at::Tensor answers =
        asked.rows.view({tokens.layout.batch(), 2 * options_.length, -1}).narrow(1, options_.length, options_.length);
    const at::Tensor hidden = nn::dropout(at::gelu(at::linear(answers, own.down, own.down_bias)), options_.dropout, context);
    return at::linear(hidden, own.up, own.up_bias);
  }

  static void fuse(const Stepwise& blocks, std::int64_t block, backbones::Backbone& backbone, nn::Tokens& tokens, const Roles& own,
                   const at::Tensor& message, const nn::Context& context) {
    const at::Tensor& mine = own.fusion_context;
    const at::Tensor prompts = at::cat({mine.unsqueeze(0).expand({message.size(0), mine.size(0), mine.size(1)}), message}, 1);
    tokens.insert_prompts(prompts, place(backbone, block));
    blocks.step(block, tokens, StepRows::without_prompts, context);
  }

  /// Query stage: keys and values of all rows again, and 2P rows of everything else; fusion stage: keys and values of 2P rows more, and
  /// every row's attention to them.
  std::int64_t side_macs(const std::vector<Roles>& side, std::int64_t tokens) const {
    std::int64_t total = 0;
    for (const Roles& one : side) {
      const std::int64_t width = one.query.size(1), prompts = 2 * options_.length, rows = tokens + prompts;
      constexpr std::int64_t inner = 4;  // of the feed-forward part, as nearly all have it
      total += 2 * rows * width * width + 2 * prompts * width * width + 2 * prompts * rows * width + 2 * inner * prompts * width * width;
      total += options_.length * (one.down.numel() + one.up.numel());
      total += 2 * prompts * width * width + 2 * tokens * prompts * width;
    }
    return total;
  }

  Options options_;
  backbones::Backbone* backbone_;
  std::vector<Roles> main_, other_;
  bool enabled_ = true;
};

class Recipe final : public ExpertRecipe {
 public:
  std::string_view kind() const override { return "pmf"; }
  std::string_view summary() const override { return "two towers that exchange prompts in their last blocks (Li et al. 2023)"; }
  bool conditional() const override { return true; }
  void declare(OptionVisitor& v) override {
    v.field("length", options_.length, {.help = "prompt tokens of each role", .min = 1, .max = 4096});
    v.field("layers", options_.layers, {.help = "last blocks of both towers that exchange prompts", .min = 1, .max = 4096});
    v.field("map_width", options_.map_width, {.help = "hidden width of the map from one tower to the other", .min = 1, .max = 65536});
    v.field("dropout", options_.dropout, {.help = "dropout on the map's hidden values while training", .min = 0, .below = 1});
    v.field("init_std", options_.init_std, {.help = "standard deviation of the start values", .above = 0});
  }
  void read_config(const Json& config, const std::string& where) override {
    const auto count = [&](const std::string& key, std::int64_t& value) {
      read(config, where, key, value);
      if (value < 1 || value > 65536) throw Error({.what = "key \"" + key + "\" is out of range", .where = where});
    };
    count("num_virtual_tokens", options_.length);
    count("fusion_layers", options_.layers);
    count("map_width", options_.map_width);
    count("other_token_dim", options_.other_width);
    read(config, where, "dropout", options_.dropout);
  }
  std::unique_ptr<Expert> build(backbones::Backbone& backbone, at::Generator generator) const override {
    return std::make_unique<Pmf>(options_, backbone, generator);
  }
  std::unique_ptr<Expert> build_conditioned(backbones::Backbone& backbone, const std::vector<std::int64_t>& widths,
                                            at::Generator generator) const override {
    if (widths.size() > 1)
      throw UsageError({.what = "this expert joins two towers", .where = method, .got = std::to_string(widths.size() + 1)});
    Options own = options_;
    own.other_width = widths.empty() ? 0 : widths.front();
    return std::make_unique<Pmf>(own, backbone, generator);
  }

 private:
  Options options_;
};

}  // namespace

std::unique_ptr<ExpertRecipe> pmf_recipe() {
  return std::make_unique<Recipe>();
}

}  // namespace mmtune::experts
