// Recipe keys of MoPE, and its adapter_config.json.

#include <ATen/ATen.h>

#include <map>
#include <string>

#include "core/error.h"
#include "experts/kinds.h"
#include "experts/mope.h"

namespace mmtune::experts {

namespace {

constexpr std::int64_t highest_rank = 4096;

template <class Enum>
using Names = std::vector<Choice<Enum>>;

const Names<MopeVariant>& variants() {
  static const Names<MopeVariant> names = {
      {"joint", MopeVariant::joint, "the router sees both modalities"},
      {"cross_only", MopeVariant::cross_only, "the earlier method: gates on the complementary feature alone, in every block"}};
  return names;
}

const Names<MopeMapper::Kind>& mappers() {
  static const Names<MopeMapper::Kind> names = {{"mlp", MopeMapper::Kind::mlp, "two maps with GELU, a norm in between"},
                                                {"plain", MopeMapper::Kind::plain, "the same without the norm"},
                                                {"linear", MopeMapper::Kind::linear, "one map with GELU"},
                                                {"identity", MopeMapper::Kind::identity, "the feature itself, where widths agree"}};
  return names;
}

const Names<MopeRouterInputs>& router_inputs() {
  static const Names<MopeRouterInputs> names = {{"both", MopeRouterInputs::both},
                                                {"main", MopeRouterInputs::main, "the main tower's tokens only"},
                                                {"complementary", MopeRouterInputs::complementary, "the second tower's feature only"}};
  return names;
}

const Names<MopeKeys>& keys() {
  static const Names<MopeKeys> names = {{"frozen", MopeKeys::frozen, "at right angles, never trained"}, {"learned", MopeKeys::learned}};
  return names;
}

const Names<MopeCombine>& combines() {
  static const Names<MopeCombine> names = {{"concat", MopeCombine::concat, "side by side"},
                                           {"sum", MopeCombine::sum, "added, where they have one width"}};
  return names;
}

const Names<MopePromptForm>& prompt_forms() {
  static const Names<MopePromptForm> names = {{"tokens", MopePromptForm::tokens, "rows that the block attends to"},
                                              {"apt", MopePromptForm::apt, "a step beside its attention, which does not grow (APT)"}};
  return names;
}

template <class Enum>
std::string name_of(const Names<Enum>& names, Enum value) {
  for (const auto& one : names)
    if (one.value == value) return one.name;
  MMTUNE_ASSERT(false);
  return {};
}

template <class Enum>
void read_choice(const Json& config, const std::string& where, const std::string& key, const Names<Enum>& names, Enum& value) {
  std::string name = name_of(names, value);
  read(config, where, key, name);
  std::string all;
  for (const auto& one : names) {
    all += (all.empty() ? "" : ", ") + one.name;
    if (one.name != name) continue;
    value = one.value;
    return;
  }
  throw Error({.what = "key \"" + key + "\" is not understood", .where = where, .expected = "one of " + all, .got = printable(name)});
}

void read_optional(const Json& config, const std::string& where, const std::string& key, std::optional<double>& value) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return;
  double number = 0;
  read(config, where, key, number);
  value = number;
}

void read_count(const Json& config, const std::string& where, const std::string& key, std::int64_t least, std::int64_t& value) {
  constexpr std::int64_t most = 1 << 20;
  read(config, where, key, value);
  if (value < least || value > most)
    throw Error({.what = "key \"" + key + "\" is out of range", .where = where, .got = std::to_string(value)});
}

/// A number, or a list of them where there are several complementary towers.
void read_widths(const Json& config, const std::string& where, std::vector<std::int64_t>& widths) {
  const auto found = config.find("complementary_width");
  const Json list = found == config.end() ? Json::array() : found->is_array() ? *found : Json::array({*found});
  constexpr std::size_t most = 64;
  if (list.size() > most) throw Error({.what = "key \"complementary_width\" is out of range", .where = where});
  widths.clear();
  for (const Json& one : list) {
    std::int64_t width = 0;
    read_count(Json{{"complementary_width", one}}, where, "complementary_width", 1, width);
    widths.push_back(width);
  }
}

class Recipe final : public ExpertRecipe {
 public:
  std::string_view kind() const override { return "mope"; }
  std::string_view summary() const override {
    return "prompts mixed for every example by a router that sees both modalities (Jiang et al. 2024)";
  }
  bool conditional() const override { return true; }

  void declare(OptionVisitor& v) override {
    MopeOptions& o = options_;
    v.field("experts", o.experts, {.help = "prompt experts of a block (K)", .min = 1, .max = 65536});
    v.field("prompt_length", o.prompt_length, {.help = "tokens of the static prompt and of every expert (l)", .min = 1, .max = 65536});
    v.field("static_prompt", o.static_prompt, {.help = "prompts that are the same for every example"});
    v.field("dynamic_prompt", o.dynamic_prompt, {.help = "the mixture of experts"});
    v.field("mapped_prompt", o.mapped_prompt, {.help = "one token made from the second tower's feature"});
    v.field("deep", o.deep, {.help = "prompts of its own for every block, instead of one set that travels through all"});
    v.choice("prompt_form", o.prompt_form, prompt_forms(), {.help = "what prompts are to a block"});
    v.field("rank", o.rank,
            {.help = "rank of the correction that makes keys of prompts where prompt_form = \"apt\"", .min = 1, .max = highest_rank});
    v.choice("variant", o.variant, variants(), {.help = "which of the two published methods"});
    v.choice("mapper", o.mapper, mappers(), {.help = "how the second tower's feature becomes a token"});
    v.field("mapper_width", o.mapper_width, {.help = "hidden width of the mapper", .min = 1, .max = 65536});
    v.choice("router_inputs", o.router_inputs, router_inputs(), {.help = "what the router of variant joint looks at"});
    v.field("router_main", o.router_main, {.help = "width of the main tower's part of a query", .min = 1, .max = 65536});
    v.field("router_complementary", o.router_complementary, {.help = "width of the second tower's part", .min = 1, .max = 65536});
    v.choice("combine", o.combine, combines(), {.help = "how the features of several complementary towers become one"});
    v.choice("keys", o.keys, keys(), {.help = "the routing keys that queries are compared with"});
    v.field("temperature", o.temperature, {.help = "of the router's softmax", .above = 0});
    v.field("top_k", o.top_k, {.help = "experts that take part in a mixture; 0: all", .min = 0});
    v.field("noise", o.noise, {.help = "noise on the router's logits while training"});
    v.field("importance_weight", o.importance_weight, {.help = "weight of the loss that balances the experts", .min = 0});
    v.field("importance_threshold", o.importance_threshold,
            {.help = "squared coefficient of variation below which that loss is 0", .min = 0, .unset = "0.1; 0.05 for cross_only"});
    v.field("dropout", o.dropout, {.help = "dropout on prompts while training", .min = 0, .below = 1});
    v.field("modality_dropout", o.modality_dropout,
            {.help = "share of the training examples whose second modality is taken away", .min = 0, .below = 1});
    v.field("init_range", o.init_range,
            {.help = "prompts start uniform in ± this",
             .above = 0,
             .unset = "pictures: by patch and width; text: 0.3; prompt_form apt: 0.035"});
    v.field("released_window_order", o.released_window_order,
            {.help = "Swin: mix the prompts of a batch's pictures as the released code does; for comparisons"});
  }

  void read_config(const Json& config, const std::string& where) override {
    MopeOptions& o = options_;
    read_widths(config, where, o.complementary_widths);
    read_choice(config, where, "combine", combines(), o.combine);
    read_count(config, where, "num_experts", 1, o.experts);
    read_count(config, where, "num_virtual_tokens", 1, o.prompt_length);
    read(config, where, "static_prompt", o.static_prompt);
    read(config, where, "dynamic_prompt", o.dynamic_prompt);
    read(config, where, "mapped_prompt", o.mapped_prompt);
    read(config, where, "deep", o.deep);
    read_choice(config, where, "prompt_form", prompt_forms(), o.prompt_form);
    read_count(config, where, "rank", 1, o.rank);
    if (o.rank > highest_rank) throw Error({.what = "key \"rank\" is out of range", .where = where, .got = std::to_string(o.rank)});
    read_choice(config, where, "variant", variants(), o.variant);
    read_choice(config, where, "mapper", mappers(), o.mapper);
    read_count(config, where, "mapper_width", 1, o.mapper_width);
    read_choice(config, where, "router_inputs", router_inputs(), o.router_inputs);
    read_count(config, where, "router_main", 1, o.router_main);
    read_count(config, where, "router_complementary", 1, o.router_complementary);
    read_choice(config, where, "keys", keys(), o.keys);
    read(config, where, "temperature", o.temperature);
    if (!(o.temperature > 0)) throw Error({.what = "key \"temperature\" is out of range", .where = where});
    read_count(config, where, "top_k", 0, o.top_k);
    read(config, where, "noise", o.noise);
    read(config, where, "importance_weight", o.importance_weight);
    read_optional(config, where, "importance_threshold", o.importance_threshold);
    read(config, where, "dropout", o.dropout);
    read(config, where, "modality_dropout", o.modality_dropout);
    read_optional(config, where, "init_range", o.init_range);
    read(config, where, "released_window_order", o.released_window_order);
  }

  std::unique_ptr<Expert> build(backbones::Backbone& backbone, at::Generator generator) const override {
    return std::make_unique<Mope>(options_, backbone, generator);
  }
  std::unique_ptr<Expert> build_conditioned(backbones::Backbone& backbone, const std::vector<std::int64_t>& widths,
                                            at::Generator generator) const override {
    MopeOptions own = options_;
    own.complementary_widths = widths;
    return std::make_unique<Mope>(own, backbone, generator);
  }

 private:
  MopeOptions options_;
};

Json optional(const std::optional<double>& value) {
  return value ? Json(*value) : Json();
}

}  // namespace

Json Mope::config() const {
  const MopeOptions& o = options_;
  const std::vector<std::int64_t>& widths = o.complementary_widths;
  return {{"peft_type", "MMTUNE_MOPE"},
          {"complementary_width", widths.size() == 1 ? Json(widths.front()) : Json(widths)},
          {"combine", name_of(combines(), o.combine)},
          {"num_experts", o.experts},
          {"num_virtual_tokens", o.prompt_length},
          {"num_layers", static_cast<std::int64_t>(blocks_.size())},
          {"static_prompt", o.static_prompt},
          {"dynamic_prompt", o.dynamic_prompt},
          {"mapped_prompt", o.mapped_prompt},
          {"deep", o.deep},
          {"prompt_form", name_of(prompt_forms(), o.prompt_form)},
          {"rank", o.rank},
          {"variant", name_of(variants(), o.variant)},
          {"mapper", name_of(mappers(), o.mapper)},
          {"mapper_width", o.mapper_width},
          {"router_inputs", name_of(router_inputs(), o.router_inputs)},
          {"router_main", o.router_main},
          {"router_complementary", o.router_complementary},
          {"keys", name_of(keys(), o.keys)},
          {"temperature", o.temperature},
          {"top_k", o.top_k},
          {"noise", o.noise},
          {"importance_weight", o.importance_weight},
          {"importance_threshold", optional(o.importance_threshold)},
          {"dropout", o.dropout},
          {"modality_dropout", o.modality_dropout},
          {"init_range", optional(o.init_range)},
          {"released_window_order", o.released_window_order}};
}

std::unique_ptr<ExpertRecipe> mope_recipe() {
  return std::make_unique<Recipe>();
}

}  // namespace mmtune::experts
