#include "experts/peft_config.h"

#include <algorithm>
#include <array>
#include <set>

#include "core/error.h"
#include "experts/companions.h"
#include "experts/kinds.h"
#include "experts/peft_targets.h"

namespace mmtune::experts {

namespace {

struct PeftType {
  std::string_view type;
  std::string_view kind;
};

constexpr PeftType peft_types[] = {{"LORA", "lora"},
                                   {"IA3", "ia3"},
                                   {"PREFIX_TUNING", "prefix"},
                                   {"MMTUNE_PROMPT", "prompt"},
                                   {"MMTUNE_DEEP_PROMPT", "prompt"},
                                   {"PROMPT_TUNING", "prompt"},
                                   {"MMTUNE_ADAPTER", "adapter"},
                                   {"MMTUNE_FUSION", "fusion"},
                                   {"MMTUNE_LADDER", "ladder"},
                                   {"MMTUNE_MOPE", "mope"},
                                   {"MMTUNE_APT", "apt"},
                                   {"MMTUNE_CLASS_TOKEN", "class_token"},
                                   {"MMTUNE_BLIND_PROMPT", "blind_prompt"},
                                   {"MMTUNE_PMF", "pmf"},
                                   {"MMTUNE_VISUAL_PROMPT", "visual_prompt"},
                                   {"MMTUNE_BITFIT", "bitfit"},
                                   {"MMTUNE_FULL", "full"},
                                   {"MMTUNE_LINEAR", "linear"}};

/// Keys that change nothing about what a finished expert computes.
constexpr std::array without_effect = {
    "auto_mapping",      "base_model_name_or_path", "inference_mode", "peft_type",    "peft_version", "revision",       "task_type",
    "runtime_config",    "megatron_core",           "eva_config",     "loftq_config", "corda_config", "lora_ga_config", "lora_dropout",
    "qalora_group_size", "init_ia3_weights"};
constexpr std::array lora_keys = {"r",    "lora_alpha",     "rank_pattern",    "alpha_pattern",   "use_rslora",          "use_dora",
                                  "bias", "target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern"};
constexpr std::array ia3_keys = {"target_modules", "exclude_modules", "feedforward_modules", "modules_to_save"};

template <std::size_t size>
bool is_among(const std::array<const char*, size>& keys, const std::string& key) {
  return std::any_of(keys.begin(), keys.end(), [&](const char* one) { return key == one; });
}

/// Ways of initialising that leave the frozen weights alone; the others put what they take out of the weights into the expert.
void refuse_initialisation(const Json& config, const std::string& where) {
  const auto found = config.find("init_lora_weights");
  if (found == config.end() || found->is_null() || found->is_boolean()) return;
  if (found->is_string())
    for (const char* harmless : {"gaussian", "orthogonal", "eva"})
      if (*found == harmless) return;
  throw Error({.what = "this initialisation changes the frozen weights, so that the expert fits no published checkpoint",
               .where = where + " (init_lora_weights)",
               .got = printable(found->dump(-1, ' ', false, Json::error_handler_t::replace)),
               .hint = "PEFT converts it to plain LoRA: save_pretrained(…, path_initial_model_for_weight_conversion=…)"});
}

/// What the first of `patterns` that fits says, in the order of the file as PEFT writes it.
template <class Value>
Value value_for(const Json& config, const std::string& key, const std::string& module, Value fallback, const std::string& where) {
  const auto patterns = config.find(key);
  if (patterns == config.end() || patterns->is_null()) return fallback;
  if (!patterns->is_object()) throw Error({.what = "key \"" + key + "\" has the wrong type", .where = where, .expected = "an object"});
  for (const auto& [pattern, value] : patterns->items()) {
    if (!ends_in_pattern(module, pattern, where + " (" + key + ")")) continue;
    if (!value.is_number())
      throw Error({.what = "key \"" + key + "\" holds something else than numbers", .where = where, .got = printable(pattern)});
    return value.template get<Value>();
  }
  return fallback;
}

/// Task models of RoBERTa and ViT leave out the pooler that the checkpoint of the bare backbone has.
bool is_absent(const std::string& module, const ModuleSpelling& spelling) {
  return module.starts_with("pooler.") && !spelling.present(module);
}

std::vector<std::string> saved_in_backbone(const TargetRules& rules, backbones::Backbone& backbone, const ModuleSpelling& spelling) {
  std::set<std::string> modules;
  for (const nn::TensorSlot& slot : backbone.sites().tensors) {
    const std::string file = spelling.to_file(slot.name);
    const bool saved = std::any_of(rules.saved().begin(), rules.saved().end(),
                                   [&](const std::string& one) { return lies_in(file.substr(0, file.rfind('.')), one); });
    if (saved) modules.insert(slot.name.substr(0, slot.name.rfind('.')));
  }
  return {modules.begin(), modules.end()};
}

}  // namespace

std::string_view kind_of_peft_type(const std::string& type, const std::string& where) {
  for (const PeftType& one : peft_types)
    if (one.type == type) return one.kind;
  std::string known;
  for (const PeftType& one : peft_types) known += (known.empty() ? "" : ", ") + std::string(one.type);
  throw Error({.what = "peft_type is not supported", .where = where, .expected = "one of " + known, .got = "\"" + printable(type) + "\""});
}

ModuleSpelling::ModuleSpelling(const std::vector<PeftKey>& keys, backbones::Backbone& backbone)
    : architecture_(backbone.info().architecture) {
  for (const PeftKey& key : keys)
    if (!key.module.empty()) modules_.insert(key.module);
  const std::vector<std::string> towers = {"", "vision_model.", "text_model."};
  std::vector<std::string> added = towers, dropped;
  if (const std::string_view prefix = task_prefix(architecture_); !prefix.empty()) added.emplace_back(prefix);
  const std::vector<nn::TensorSlot>& slots = backbone.sites().tensors;
  for (const std::string& tower : towers)
    if (std::any_of(slots.begin(), slots.end(), [&](const nn::TensorSlot& slot) { return slot.name.starts_with(tower); }))
      dropped.push_back(tower);

  std::size_t most = 0;
  ModuleSpelling best = *this;
  for (const Naming naming : {Naming::checkpoint, Naming::modules}) {
    for (const std::string& drop : dropped) {
      for (const std::string& add : added) {
        naming_ = naming;
        dropped_ = drop;
        added_ = add;
        std::set<std::string> seen;
        for (const nn::TensorSlot& slot : slots) {
          const std::string name = to_file(slot.name);
          const std::string module = name.substr(0, name.rfind('.'));
          if (modules_.contains(module)) seen.insert(module);
        }
        if (seen.size() <= most) continue;
        most = seen.size();
        best = *this;
      }
    }
  }
  if (most == 0) {
    best.naming_ = Naming::checkpoint;
    best.added_ = best.dropped_ = "";
  }
  *this = best;
}

std::string ModuleSpelling::to_file(const std::string& name) const {
  if (!name.starts_with(dropped_)) return name;
  return added_ + spelt_as(naming_, architecture_, name.substr(dropped_.size()));
}

bool ModuleSpelling::present(const std::string& module) const {
  return modules_.contains(to_file(module));
}

std::string ModuleSpelling::from_file(const std::string& name) const {
  if (!name.starts_with(added_)) return name;
  const std::string below = name.substr(added_.size());
  return dropped_ + (naming_ == Naming::modules ? checkpoint_name(architecture_, below) : below);
}

Json resolved_config(const Json& config, const std::string& where, backbones::Backbone& backbone, const ModuleSpelling& spelling) {
  const std::string type = config.at("peft_type");
  const bool lora = type == "LORA";
  if (!lora && type != "IA3") return config;
  if (lora) refuse_initialisation(config, where);
  for (const auto& [key, value] : config.items()) {
    if (key == "init_lora_weights" || is_among(without_effect, key)) continue;
    if (lora ? is_among(lora_keys, key) : is_among(ia3_keys, key)) continue;
    refuse_unless_plain(config, where, key, false);
  }
  const TargetRules rules(config, where);
  Json resolved = config;
  std::vector<std::string> targets, inputs;
  Json ranks = Json::object(), alphas = Json::object();
  for (const nn::WeightSite* site : backbone.sites().weights) {
    const std::string module = spelling.to_file(site->name);
    if (!rules.chooses(module) || is_absent(site->name, spelling)) continue;
    targets.push_back(site->name);
    if (rules.named_under("feedforward_modules", module)) inputs.push_back(site->name);
    if (!lora) continue;
    const auto rank = value_for<std::int64_t>(config, "rank_pattern", module, -1, where);
    const auto alpha = value_for<double>(config, "alpha_pattern", module, -1, where);
    if (rank != -1) ranks[site->name] = rank;
    if (alpha != -1) alphas[site->name] = alpha;
  }
  if (targets.empty())
    throw Error({.what = "target_modules chooses no linear map of this backbone",
                 .where = where,
                 .expected = "a name like " + spelling.to_file(backbone.sites().weights.front()->name),
                 .got = config.contains("target_modules")
                            ? printable(config["target_modules"].dump(-1, ' ', false, Json::error_handler_t::replace))
                            : "nothing"});
  resolved["target_modules"] = targets;
  resolved[absent_key] = Json::array();
  for (const nn::TensorSlot& slot : backbone.sites().tensors)
    if (is_absent(slot.name.substr(0, slot.name.rfind('.')), spelling)) resolved[absent_key].push_back(slot.name);
  resolved["modules_to_save"] = saved_in_backbone(rules, backbone, spelling);
  if (lora) {
    resolved["rank_pattern"] = ranks;
    resolved["alpha_pattern"] = alphas;
  } else {
    resolved["feedforward_modules"] = inputs;
  }
  return resolved;
}

}  // namespace mmtune::experts
