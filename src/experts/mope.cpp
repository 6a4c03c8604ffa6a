#include "experts/mope.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "experts/kinds.h"

namespace mmtune::experts {

namespace {

constexpr double joint_noise = 1.0 / 256.0;  // of the released router, whatever K is

at::Tensor uniform_leaf(at::IntArrayRef shape, double range, at::Generator& generator) {
  return leaf(at::empty(shape).uniform_(-range, range, generator));
}

/// How linear maps begin in PyTorch.
at::Tensor linear_leaf(at::IntArrayRef shape, std::int64_t inputs, at::Generator& generator) {
  return uniform_leaf(shape, 1.0 / std::sqrt(static_cast<double>(inputs)), generator);
}

at::Tensor frozen(const at::Tensor& values) {
  return values.clone().set_requires_grad(false);
}

}  // namespace

std::int64_t MopeOptions::features_width() const {
  return std::accumulate(complementary_widths.begin(), complementary_widths.end(), std::int64_t{0});
}

std::int64_t MopeOptions::complementary_width() const {
  return combine == MopeCombine::sum && !complementary_widths.empty() ? complementary_widths.front() : features_width();
}

class Mope::Hook final : public nn::SequenceHook {
 public:
  Hook(Mope& expert, std::size_t block) : expert_(expert), block_(block) {}
  void before_block(nn::Tokens& tokens, const nn::Context& context) override {
    expert_.before_block(expert_.blocks_[block_], tokens, context);
  }
  void after_block(nn::Tokens& tokens, const nn::Context&) override { expert_.after_block(expert_.blocks_[block_], tokens); }

 private:
  Mope& expert_;
  std::size_t block_;
};

Mope::Mope(const MopeOptions& options, backbones::Backbone& backbone, at::Generator& generator) : options_(options), backbone_(&backbone) {
  const backbones::BackboneInfo& info = backbone.info();
  if (backbone.sites().sequences.empty())
    throw UsageError({.what = "the backbone gives no access to the tokens between its layers",
                      .where = "expert.method = \"mope\"",
                      .got = info.architecture});
  const std::vector<std::int64_t>& widths = options_.complementary_widths;
  if (options_.complementary_width() <= 0)
    throw UsageError({.what = "this expert needs a second tower, whose feature conditions the first",
                      .where = "expert.method = \"mope\"",
                      .hint = "name the second tower in backbone.condition"});
  if (options_.combine == MopeCombine::sum)
    for (const std::int64_t width : widths)
      if (width != widths.front())
        throw UsageError({.what = "the complementary towers' features are not of one width, and cannot be summed",
                          .where = "expert.combine = \"sum\"",
                          .expected = std::to_string(widths.front()),
                          .got = std::to_string(width),
                          .hint = "use combine = \"concat\""});
  if (prompts() == 0)
    throw UsageError({.what = "no prompt is left",
                      .where = "expert.static_prompt",
                      .expected = "one of static_prompt, dynamic_prompt and mapped_prompt to be true"});
  if (as_tokens() && info.max_length > 0 && prompts() > info.max_length)
    throw UsageError({.what = "more prompt tokens in a block than the main backbone takes positions",
                      .where = "expert.prompt_length",
                      .expected = "at most " + std::to_string(info.max_length) + " tokens (" + info.architecture + ")",
                      .got = std::to_string(prompts()),
                      .hint = "more experts cost no tokens: raise expert.experts instead"});
  lay_out(backbone);
  if (!as_tokens()) refuse_unfit_form(info);
  make_tensors(info, generator);
  if (!as_tokens()) {
    const auto attentions = attention_of_layers(backbone);
    for (Block& block : blocks_) {
      diffusions_.push_back(std::make_unique<MopeDiffusion>(*attentions.at(block.site->layer), options_.rank, generator));
      block.diffusion = diffusions_.back().get();
    }
  }
  for (std::size_t i = 0; i < blocks_.size(); ++i) hooks_.push_back(std::make_unique<Hook>(*this, i));
  set_enabled(true);
}

Mope::~Mope() {
  set_enabled(false);
}

std::int64_t Mope::prompts() const {
  return (options_.static_prompt ? options_.prompt_length : 0) + (options_.dynamic_prompt ? options_.prompt_length : 0) +
         (options_.mapped_prompt ? 1 : 0);
}

bool Mope::uses_main() const {
  return routes() && options_.variant == MopeVariant::joint && options_.router_inputs != MopeRouterInputs::complementary;
}

bool Mope::uses_complementary() const {
  return routes() && (options_.variant == MopeVariant::cross_only || options_.router_inputs != MopeRouterInputs::main);
}

/// Width of a block's share of the products with y.
std::int64_t Mope::cross_width() const {
  return options_.variant == MopeVariant::cross_only ? options_.experts : options_.router_complementary;
}

void Mope::lay_out(backbones::Backbone& backbone) {
  constexpr std::int64_t group = 4, most_groups = 3;  // of layers that share a mapped token, where the width never changes
  const backbones::BackboneInfo& info = backbone.info();
  picture_ = info.modality == backbones::Modality::image;
  merging_ = picture_ && !info.has_class_token;
  std::int64_t in_stage = 0;
  for (nn::SequenceSite* site : backbone.sites().sequences) {
    Block block{.site = site, .first = blocks_.empty()};
    const bool widened = !blocks_.empty() && blocks_.back().site->width != site->width;
    if (merging_) {
      block.stage = blocks_.empty() ? 0 : blocks_.back().stage + (widened ? 1 : 0);
    } else {
      block.stage = static_cast<std::size_t>(std::min(site->layer / group, most_groups - 1));
    }
    in_stage = widened ? 0 : in_stage;
    const bool keeps = merging_ && options_.deep && options_.variant == MopeVariant::joint && in_stage == 0;
    block.makes = !keeps && (options_.deep || block.first);
    if (block.makes) block.number = making_++;
    // The released gates: the first stage has one, every later block its own.
    block.gate = merging_ ? (block.stage == 0 ? 0 : site->layer - 1) : site->layer;
    ++in_stage;
    if (block.stage >= mapper_.widths.size()) mapper_.widths.push_back(site->width);
    blocks_.push_back(block);
  }
  for (const std::int64_t width : mapper_.widths)
    if (options_.mapped_prompt && options_.mapper == MopeMapper::Kind::identity && width != options_.complementary_width())
      throw UsageError({.what = "the complementary feature is not as wide as the main backbone's tokens",
                        .where = "expert.mapper = \"identity\"",
                        .expected = std::to_string(width),
                        .got = std::to_string(options_.complementary_width()),
                        .hint = "use mapper = \"linear\" or \"mlp\""});
}

void Mope::refuse_unfit_form(const backbones::BackboneInfo& info) const {
  const std::string where = "expert.prompt_form = \"apt\"";
  if (merging_)
    throw UsageError({.what = "the backbone's blocks hand their prompts on, which a step beside the attention cannot do",
                      .where = where,
                      .expected = "BERT, RoBERTa, ViT, CLIP's picture tower or Wav2Vec2",
                      .got = info.architecture,
                      .hint = "use prompt_form = \"tokens\""});
  if (!options_.deep)
    throw UsageError(
        {.what = "prompts beside the attention do not travel from block to block", .where = where, .hint = "leave out deep = false"});
}

/// What prompts are drawn from.
double Mope::init_range(const backbones::BackboneInfo& info) const {
  constexpr double released_text = 0.3, apt_std = 0.02;
  if (options_.init_range) return *options_.init_range;
  // A uniform draw as wide as APT's normal one: what prompts add grows with the third power of their size.
  if (!as_tokens()) return apt_std * std::sqrt(3.0);
  if (!picture_) return released_text;
  const std::int64_t patches = std::max<std::int64_t>(info.max_length - (info.has_class_token ? 1 : 0), 1);
  const double area = static_cast<double>(info.image_height * info.image_width) / static_cast<double>(patches);
  return std::sqrt(6.0 / (3.0 * area + static_cast<double>(blocks_.front().site->width)));
}

void Mope::make_tensors(const backbones::BackboneInfo& info, at::Generator& generator) {
  const std::int64_t length = options_.prompt_length, count = options_.experts, y = options_.complementary_width();
  const double range = init_range(info);
  mapper_.kind = options_.mapper;
  if (options_.mapped_prompt && mapper_.kind != MopeMapper::Kind::identity) {
    std::int64_t hidden = y, sum = 0;
    for (const std::int64_t width : mapper_.widths) sum += width;
    if (mapper_.kind != MopeMapper::Kind::linear) {
      hidden = options_.mapper_width;
      mapper_.weight = linear_leaf({hidden, y}, y, generator);
      mapper_.bias = linear_leaf({hidden}, y, generator);
      if (mapper_.kind == MopeMapper::Kind::mlp) {
        mapper_.norm_weight = leaf(at::ones({hidden}));
        mapper_.norm_bias = leaf(at::zeros({hidden}));
        mapper_.running_mean = at::zeros({hidden});
        mapper_.running_var = at::ones({hidden});
      }
    }
    mapper_.projection_weight = linear_leaf({sum, hidden}, hidden, generator);
    mapper_.projection_bias = linear_leaf({sum}, hidden, generator);
  }
  absent_ = leaf(at::zeros({options_.features_width()}));
  if (!blocks_.front().makes) input_prompts_ = uniform_leaf({prompts(), blocks_.front().site->width}, range, generator);

  const std::int64_t query = (uses_main() ? options_.router_main : 0) + (uses_complementary() ? options_.router_complementary : 0);
  std::int64_t gates = 0;
  for (Block& block : blocks_) {
    if (!block.makes) continue;
    const std::int64_t width = block.site->width;
    if (options_.static_prompt) block.fixed = uniform_leaf({length, width}, range, generator);
    if (!routes()) continue;
    block.experts = uniform_leaf({count, length, width}, range, generator);
    if (uses_main()) {
      block.main_weight = linear_leaf({options_.router_main, width}, width, generator);
      block.main_bias = linear_leaf({options_.router_main}, width, generator);
    }
    if (options_.variant == MopeVariant::joint) {
      block.keys = frozen(mope_keys(query, count, generator));
      if (options_.keys == MopeKeys::learned) block.keys.set_requires_grad(true);
      block.gate = static_cast<std::int64_t>(block.number);
    }
    gates = std::max(gates, block.gate + 1);
  }
  if (uses_complementary()) {
    cross_weight_ = linear_leaf({gates * cross_width(), y}, y, generator);
    cross_bias_ = linear_leaf({gates * cross_width()}, y, generator);
  }
}

std::vector<nn::NamedTensor> Mope::tensors() const {
  std::vector<nn::NamedTensor> named;
  const auto add = [&named](const std::string& name, const at::Tensor& tensor) {
    if (tensor.defined()) named.push_back({name, tensor});
  };
  add("absent", absent_);
  add("mapper.dense.weight", mapper_.weight);
  add("mapper.dense.bias", mapper_.bias);
  add("mapper.norm.weight", mapper_.norm_weight);
  add("mapper.norm.bias", mapper_.norm_bias);
  add("mapper.norm.running_mean", mapper_.running_mean);
  add("mapper.norm.running_var", mapper_.running_var);
  add("mapper.projection.weight", mapper_.projection_weight);
  add("mapper.projection.bias", mapper_.projection_bias);
  add("router.complementary.weight", cross_weight_);
  add("router.complementary.bias", cross_bias_);
  add("input_prompts", input_prompts_);
  for (const Block& block : blocks_) {
    const std::string prefix = block.site->name + ".";
    add(prefix + "static", block.fixed);
    add(prefix + "experts", block.experts);
    add(prefix + "router.main.weight", block.main_weight);
    add(prefix + "router.main.bias", block.main_bias);
    add(prefix + "router.keys", block.keys);
  }
  for (const auto& diffusion : diffusions_)
    for (const nn::NamedTensor& item : diffusion->tensors()) named.push_back(item);
  return named;
}

void Mope::set_enabled(bool enabled) {
  if (enabled == enabled_) return;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    nn::SequenceSite& site = *blocks_[i].site;
    if (enabled && site.hook) throw Error({.what = "another prompt is attached already", .where = site.name});
    site.hook = enabled ? hooks_[i].get() : nullptr;
  }
  for (const auto& diffusion : diffusions_) attach(diffusion->site().hooks, diffusion.get(), enabled);
  enabled_ = enabled;
}

std::int64_t Mope::extra_macs(std::int64_t tokens) const {
  std::int64_t total = 0;
  if (as_tokens()) {
    std::vector<nn::SequenceSite*> sites;
    for (const Block& block : blocks_) sites.push_back(block.site);
    total = options_.deep && prompts_end(*backbone_, sites) ? ending_prompt_macs(sites, tokens, prompts())
                                                            : backbone_->macs(tokens + prompts(), false) - backbone_->macs(tokens, false);
  }
  for (const auto& diffusion : diffusions_)
    total += diffusion->macs(backbone_->rows_at(diffusion->site().name, diffusion->site().layer, tokens), prompts());
  for (const nn::NamedTensor& item : tensors()) {
    // Maps of y and of the pooled tokens, keys, and the mixture: one product an element, whatever the batch.
    const bool product = item.name != "input_prompts" && !item.name.ends_with(".static") && item.name.find(".APT.") == std::string::npos;
    if (item.tensor.dim() >= 2 && product) total += item.tensor.numel();
  }
  return total;
}

at::Tensor Mope::importance() const {
  std::vector<at::Tensor> scores;
  for (const MopeRouting& one : pass_.routing) scores.push_back(one.scores);
  if (scores.empty()) return {};
  const double usual = options_.variant == MopeVariant::cross_only ? 0.05 : 0.1;
  return mope_importance(at::stack(scores), options_.importance_threshold.value_or(usual)).mean();
}

at::Tensor Mope::auxiliary_loss() const {
  if (options_.importance_weight == 0 || options_.experts < 2) return {};
  const at::Tensor mean = importance();
  return mean.defined() ? mean * options_.importance_weight : mean;
}

at::Tensor Mope::complementary(std::int64_t batch, const nn::Context& context) const {
  const at::Tensor& given = context.complementary;
  if (!given.defined())
    throw UsageError({.what = "the expert needs the complementary modality's feature, and no second tower gives one",
                      .where = "method = \"mope\" on " + backbone_->info().architecture});
  const std::vector<std::int64_t>& widths = options_.complementary_widths;
  const auto towers = static_cast<std::int64_t>(widths.size());
  MMTUNE_ASSERT(given.dim() == 2 && given.size(0) == batch && given.size(1) == options_.features_width());
  at::Tensor there = context.complementary_there;
  if (there.defined()) there = there.reshape({batch, -1});
  if (context.training && context.generator && options_.modality_dropout > 0) {
    const at::Tensor kept = at::empty({batch, towers}, given.options().requires_grad(false))
                                .bernoulli_(1.0 - options_.modality_dropout, *context.generator)
                                .to(at::kBool);
    there = there.defined() ? there.logical_and(kept) : kept;
  }
  at::Tensor y = given;
  if (there.defined()) {
    if (towers > 1) there = there.repeat_interleave(nn::beside(at::tensor(widths, at::kLong), there), 1);
    y = at::where(there, given, absent_);
  }
  return options_.combine == MopeCombine::sum && towers > 1 ? y.view({batch, towers, -1}).sum(1) : y;
}

void Mope::begin(const nn::Tokens& tokens, const nn::Context& context) {
  const std::int64_t batch = tokens.layout.batch();
  pass_ = {};
  const at::Tensor y = options_.mapped_prompt || uses_complementary() ? complementary(batch, context) : at::Tensor();
  if (options_.mapped_prompt) {
    pass_.mapped = mapper_.tokens(mapper_.hidden(y));
    for (at::Tensor& token : pass_.mapped) {
      // Else the mapped token drowns the other prompts, since the largest activation weighs all: a map over D_m values moves its result in
      // a step of the optimiser some D_m times as far as a prompt that is a parameter itself.
      if (!as_tokens())
        token = token / std::sqrt(static_cast<double>(mapper_.projection_weight.defined() ? mapper_.projection_weight.size(1) : 1));
      token = nn::dropout(token, options_.dropout, context);
    }
  }
  if (uses_complementary()) pass_.cross = at::linear(y, cross_weight_, cross_bias_).view({batch, -1, cross_width()});
  if (routes() && options_.noise && context.training && context.generator)
    pass_.noise = at::empty({static_cast<std::int64_t>(making_), batch, options_.experts}, tokens.rows.options().requires_grad(false))
                      .normal_(0.0, 1.0, *context.generator);
}

/// Scores [B, K].
at::Tensor Mope::route(const Block& block, const nn::Tokens& tokens, MopeRouting& routing) const {
  if (pass_.cross.defined()) routing.query_complementary = pass_.cross.select(1, block.gate);
  if (options_.variant == MopeVariant::cross_only) {
    routing.logits = routing.query_complementary / options_.temperature;
  } else {
    std::vector<at::Tensor> query;
    if (uses_main()) {
      routing.pooled = nn::mean_rows(tokens.rows, tokens.layout);
      routing.query_main = at::linear(routing.pooled, block.main_weight, block.main_bias);
      query.push_back(routing.query_main);
    }
    if (routing.query_complementary.defined()) query.push_back(routing.query_complementary);
    routing.logits = (query.size() == 1 ? query.front() : at::cat(query, 1)).mm(block.keys) / options_.temperature;
  }
  at::Tensor noise = probe_.noise            ? probe_.noise(block.number)
                     : pass_.noise.defined() ? pass_.noise[static_cast<std::int64_t>(block.number)]
                                             : at::Tensor();
  if (noise.defined()) {
    const double scale =
        options_.variant == MopeVariant::joint ? joint_noise : 1.0 / static_cast<double>(options_.experts * options_.experts);
    routing.logits = routing.logits + noise * scale;
  }
  return mope_scores(routing.logits, options_.top_k);
}

/// [B, P, C]; the order of the parts is the released code's, and does not matter to the result.
at::Tensor Mope::make_prompts(const Block& block, const nn::Tokens& tokens, const nn::Context& context) {
  const std::int64_t batch = tokens.layout.batch();
  at::Tensor fixed, dynamic, mapped;
  if (options_.static_prompt) fixed = block.fixed.unsqueeze(0).expand({batch, block.fixed.size(0), block.fixed.size(1)});
  if (routes()) {
    MopeRouting routing{.site = block.site->name};
    routing.scores = route(block, tokens, routing);
    if (probe_.scores) routing.scores = probe_.scores(block.number, routing.scores);
    routing.dynamic = dynamic = mope_mixture(routing.scores, block.experts);
    pass_.routing.push_back(std::move(routing));
  }
  if (options_.mapped_prompt) mapped = pass_.mapped[block.stage].unsqueeze(1);
  std::vector<at::Tensor> parts{fixed, dynamic, mapped};
  if (!picture_) {
    parts = {mapped, fixed, dynamic};
  } else if (options_.variant == MopeVariant::cross_only) {
    parts = {dynamic, fixed, mapped};
  }
  std::erase_if(parts, [](const at::Tensor& part) { return !part.defined(); });
  if (picture_ && options_.variant == MopeVariant::cross_only)
    for (at::Tensor& part : parts)
      if (!part.is_same(parts.back()) || !options_.mapped_prompt) part = nn::dropout(part, options_.dropout, context);
  at::Tensor prompts = at::cat(parts, 1);
  if (!picture_) prompts = nn::dropout(prompts, options_.dropout, context);
  return prompts;
}

void Mope::before_block(const Block& block, nn::Tokens& tokens, const nn::Context& context) {
  if (block.first) begin(tokens, context);
  if (!as_tokens()) return block.diffusion->set_prompts(make_prompts(block, tokens, context));
  const bool fresh = tokens.prompt_count == 0;
  if (block.makes) {
    const at::Tensor prompts = make_prompts(block, tokens, context);
    if (fresh) {
      tokens.insert_prompts(prompts, block.site->prompt_position);
    } else {
      tokens.replace_prompts(prompts);
    }
  } else if (fresh) {
    tokens.insert_prompts(nn::dropout(input_prompts_, options_.dropout, context), block.site->prompt_position);
  }
  tokens.released_window_order = options_.released_window_order;
  tokens.prompts_end = options_.deep && !merging_;
}

void Mope::after_block(const Block& block, nn::Tokens& tokens) const {
  // What merging backbones pool are all tokens, prompts included. Elsewhere the prompts of a deep expert leave behind every block, if the
  // block has not left them out already.
  if (merging_ || tokens.prompt_count == 0) return;
  if (block.site->last || options_.deep) tokens.remove_prompts();
}

}  // namespace mmtune::experts
