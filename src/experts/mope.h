#pragma once
// MoPE (Jiang, Liu, Chen, arXiv 2403.10568): prompts for a frozen main encoder that are made for every example from the pair of its
// modalities. The prompts of a block are a static part, a dynamic part (a mixture of K prompt experts that a router weighs by what it sees
// of both modalities) and one mapped token (a projection of the complementary feature y). y comes through nn::Context::complementary.
//
// docs/methods/mope.md has the equations and the keys.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "experts/expert.h"
#include "experts/mope_diffusion.h"
#include "experts/mope_parts.h"

namespace mmtune::experts {

enum class MopeVariant {
  joint,      ///< the router sees both modalities; block 0 of a merging backbone's stage keeps the prompts that reach it
  cross_only  ///< the earlier one: gates on y alone, in every block
};
enum class MopeRouterInputs { both, main, complementary };
enum class MopeKeys { frozen, learned };
enum class MopePromptForm {
  tokens,  ///< rows that the block attends to
  apt      ///< a step beside its attention (experts/mope_diffusion.h)
};
/// How the features of several complementary towers become y.
enum class MopeCombine { concat, sum };

struct MopeOptions {
  std::int64_t experts = 4;        ///< K
  std::int64_t prompt_length = 6;  ///< l: of the static part and of every expert
  std::int64_t rank = 4;           ///< of the correction that makes keys of prompts in APT's form
  MopePromptForm prompt_form = MopePromptForm::tokens;
  bool static_prompt = true, dynamic_prompt = true, mapped_prompt = true;
  bool deep = true;  ///< prompts of its own for every block; false: made once, before the first
  MopeVariant variant = MopeVariant::joint;
  MopeMapper::Kind mapper = MopeMapper::Kind::mlp;
  std::int64_t mapper_width = 384;  ///< D_m
  MopeRouterInputs router_inputs = MopeRouterInputs::both;
  MopeKeys keys = MopeKeys::frozen;
  std::int64_t router_main = 2, router_complementary = 8;  ///< widths of the two parts of a query
  double temperature = 0.1;
  std::int64_t top_k = 0;  ///< 0: all experts take part
  double importance_weight = 0.01;
  std::optional<double> importance_threshold;  ///< unset: 0.1; 0.05 for cross_only
  double dropout = 0.1;
  double modality_dropout = 0.0;  ///< share of the training examples whose y is taken away
  std::optional<double> init_range;
  std::vector<std::int64_t> complementary_widths;  ///< of the complementary towers' features
  MopeCombine combine = MopeCombine::concat;
  bool noise = true;  ///< on the router's logits while training
  bool released_window_order = false;

  std::int64_t features_width() const;       ///< of all complementary features side by side
  std::int64_t complementary_width() const;  ///< D_y: the same, or one tower's where they are summed
};

/// What a routed block saw and decided in the latest forward pass; rows are the batch's examples.
struct MopeRouting {
  std::string site;
  at::Tensor pooled;               ///< [B, C]: mean of the block's tokens; undefined where the router does not look at them
  at::Tensor query_main;           ///< [B, d_s]
  at::Tensor query_complementary;  ///< [B, d_c]
  at::Tensor logits;               ///< [B, K], noise included
  at::Tensor scores;               ///< [B, K]
  at::Tensor dynamic;              ///< [B, l, C]
};

/// Interventions, for explanations and tests. Every function may be empty.
struct MopeProbe {
  std::function<at::Tensor(std::size_t block)> noise;  ///< [B, K] standard normal draws of a routed block, in training or not
  std::function<at::Tensor(std::size_t block, const at::Tensor& scores)> scores;  ///< replaces a routed block's scores
};

class Mope final : public Expert {
 public:
  /// Throws UsageError: no sequence sites, no complementary width, unequal widths to be summed, an identity mapper between unequal widths,
  /// more prompt tokens than the backbone takes positions; in APT's form: prompts that are not every block's own, a backbone whose blocks
  /// keep their prompts (Swin), or whose layers have not one attention each.
  Mope(const MopeOptions& options, backbones::Backbone& backbone, at::Generator& generator);
  ~Mope() override;

  std::string_view kind() const override { return "mope"; }
  /// "mapper.…", "router.complementary.…", "absent", "input_prompts", and below every routed block's name "static", "experts",
  /// "router.main.weight", "router.main.bias", "router.keys"; in APT's form below every attention's name what MopeDiffusion has. Frozen
  /// ones are saved too.
  std::vector<nn::NamedTensor> tensors() const override;
  Json config() const override;
  void set_enabled(bool enabled) override;
  bool enabled() const override { return enabled_; }
  std::int64_t extra_macs(std::int64_t tokens) const override;
  /// importance_weight times the mean over the routed blocks of the latest pass.
  at::Tensor auxiliary_loss() const override;
  bool conditional() const override { return true; }
  bool learns_absent() const override { return options_.modality_dropout > 0; }
  std::vector<std::int64_t> complementary_widths() const override { return options_.complementary_widths; }

  const MopeOptions& options() const { return options_; }
  std::int64_t prompts() const;  ///< P
  const MopeMapper& mapper() const { return mapper_; }
  /// Of the latest forward pass, block by block; empty before the first.
  const std::vector<MopeRouting>& routing() const { return pass_.routing; }
  /// The mean importance of the latest pass, without the weight; undefined where nothing was routed.
  at::Tensor importance() const;
  void set_probe(MopeProbe probe) { probe_ = std::move(probe); }

 private:
  class Hook;
  struct Block {
    nn::SequenceSite* site = nullptr;
    std::size_t stage = 0;
    bool first = false, makes = false;  ///< first: of all; makes: has prompts of its own
    std::size_t number = 0;             ///< among those that make prompts
    std::int64_t gate = 0;              ///< of the cross-only variant
    at::Tensor fixed, experts, main_weight, main_bias, keys;
    MopeDiffusion* diffusion = nullptr;  ///< in APT's form
  };
  /// What the blocks of one forward pass share.
  struct Pass {
    std::vector<at::Tensor> mapped;  ///< a stage
    at::Tensor cross;                ///< [B, gates, width]
    at::Tensor noise;                ///< [blocks, B, K]
    std::vector<MopeRouting> routing;
  };

  void lay_out(backbones::Backbone& backbone);
  void refuse_unfit_form(const backbones::BackboneInfo& info) const;
  double init_range(const backbones::BackboneInfo& info) const;
  void make_tensors(const backbones::BackboneInfo& info, at::Generator& generator);
  void begin(const nn::Tokens& tokens, const nn::Context& context);
  at::Tensor complementary(std::int64_t batch, const nn::Context& context) const;
  at::Tensor route(const Block& block, const nn::Tokens& tokens, MopeRouting& routing) const;
  at::Tensor make_prompts(const Block& block, const nn::Tokens& tokens, const nn::Context& context);
  void before_block(const Block& block, nn::Tokens& tokens, const nn::Context& context);
  void after_block(const Block& block, nn::Tokens& tokens) const;
  bool routes() const { return options_.dynamic_prompt && options_.experts > 0; }
  bool as_tokens() const { return options_.prompt_form == MopePromptForm::tokens; }
  bool uses_main() const;
  bool uses_complementary() const;
  std::int64_t cross_width() const;

  MopeOptions options_;
  const backbones::Backbone* backbone_;
  bool picture_ = false;
  bool merging_ = false;  ///< prompts travel with the tokens through stages of growing width, instead of leaving behind every block
  std::vector<Block> blocks_;
  std::vector<std::unique_ptr<Hook>> hooks_;
  std::vector<std::unique_ptr<MopeDiffusion>> diffusions_;
  std::size_t making_ = 0;  ///< blocks that make prompts
  MopeMapper mapper_;
  at::Tensor cross_weight_, cross_bias_, absent_, input_prompts_;
  Pass pass_;
  MopeProbe probe_;
  bool enabled_ = false;
};

}  // namespace mmtune::experts
