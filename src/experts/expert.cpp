#include "experts/expert.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <set>

#include "core/files.h"
#include "core/listed.h"
#include "core/nearest.h"
#include "experts/fusion.h"
#include "experts/kinds.h"
#include "experts/peft_targets.h"
#include "io/safetensors.h"

namespace mmtune::experts {

namespace {

using Maker = std::unique_ptr<ExpertRecipe> (*)();

constexpr Maker makers[] = {full_recipe,         linear_recipe, bitfit_recipe, lora_recipe,          ia3_recipe,   adapter_recipe,
                            prefix_recipe,       prompt_recipe, ladder_recipe, mope_recipe,          apt_recipe,   class_token_recipe,
                            blind_prompt_recipe, pmf_recipe,    pi_recipe,     visual_prompt_recipe, fusion_recipe};

/// PEFT keeps every tensor below this, but for the prompt tables.
std::string key_of(const std::string& name) {
  return name == "prompt_embeddings" ? name : "base_model.model." + name;
}

template <class T, class Check>
void read_as(const Json& config, const std::string& where, const std::string& key, T& value, Check holds, const std::string& expected) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return;
  if (!holds(*found))
    throw Error({.what = "key \"" + key + "\" has the wrong type",
                 .where = where,
                 .expected = expected,
                 .got = printable(found->dump(-1, ' ', false, Json::error_handler_t::replace))});
  value = found->template get<T>();
}

}  // namespace

std::string listed(const std::vector<std::string>& names) {
  return mmtune::listed(names, 6);
}

std::int64_t Expert::parameter_count() const {
  std::int64_t count = 0;
  for (const nn::NamedTensor& named : tensors())
    if (named.tensor.requires_grad()) count += named.tensor.numel();
  return count;
}

at::Tensor leaf(const at::Tensor& values) {
  return values.detach().to(at::kFloat).clone().requires_grad_(true);
}

at::Tensor normal_leaf(at::IntArrayRef shape, double std, at::Generator& generator) {
  return leaf(std > 0 ? at::empty(shape).normal_(0.0, std, generator) : at::zeros(shape));
}

bool prompts_end(const backbones::Backbone& backbone, const std::vector<nn::SequenceSite*>& sites) {
  const backbones::BackboneInfo& info = backbone.info();
  const bool merging = info.modality == backbones::Modality::image && !info.has_class_token;
  return !merging && std::none_of(sites.begin(), sites.end(), [](const nn::SequenceSite* site) { return site->causal; });
}

std::int64_t ending_prompt_macs(const std::vector<nn::SequenceSite*>& sites, std::int64_t tokens, std::int64_t prompts) {
  std::int64_t total = 0;
  for (const nn::SequenceSite* site : sites) total += 2 * prompts * site->width * site->width + 2 * tokens * prompts * site->width;
  return total;
}

void nothing_chosen(const std::string& pattern, const std::vector<std::string>& names, const std::string& what, const std::string& key) {
  std::set<std::string> endings;
  for (const std::string& name : names) endings.insert(name.substr(name.rfind('.') + 1));
  std::vector<std::string> candidates(endings.begin(), endings.end());
  const std::optional<std::string> close = nearest(pattern, candidates);
  throw UsageError({.what = "no " + what + " of the backbone is named like this",
                    .where = key + ": \"" + printable(pattern) + "\"",
                    .expected = names.empty() ? "" : "an ending like " + listed(candidates),
                    .hint = close ? "did you mean \"" + *close + "\"?" : ""});
}

void read(const Json& config, const std::string& where, const std::string& key, std::int64_t& value) {
  read_as(
      config, where, key, value, [](const Json& j) { return j.is_number_integer(); }, "an integer");
}
void read(const Json& config, const std::string& where, const std::string& key, double& value) {
  read_as(
      config, where, key, value, [](const Json& j) { return j.is_number(); }, "a number");
}
void read(const Json& config, const std::string& where, const std::string& key, bool& value) {
  read_as(
      config, where, key, value, [](const Json& j) { return j.is_boolean(); }, "true or false");
}
void read(const Json& config, const std::string& where, const std::string& key, std::string& value) {
  read_as(
      config, where, key, value, [](const Json& j) { return j.is_string(); }, "a string");
}
void read(const Json& config, const std::string& where, const std::string& key, std::vector<std::string>& value) {
  const auto strings = [](const Json& j) {
    return j.is_array() && std::all_of(j.begin(), j.end(), [](const Json& item) { return item.is_string(); });
  };
  read_as(config, where, key, value, strings, "a list of strings");
}

void read(const Json& config, const std::string& where, const std::string& key, std::map<std::string, double>& value) {
  const auto numbers = [](const Json& j) {
    return j.is_object() && std::all_of(j.begin(), j.end(), [](const Json& item) { return item.is_number(); });
  };
  read_as(config, where, key, value, numbers, "an object of numbers");
}

std::vector<nn::WeightSite*> chosen_maps(backbones::Backbone& backbone, const std::vector<std::string>& patterns,
                                         const std::vector<std::string>& saved) {
  std::vector<nn::WeightSite*> sites = chosen(backbone.sites().weights, patterns, "linear map");
  std::erase_if(sites, [&](const nn::WeightSite* site) {
    return std::any_of(saved.begin(), saved.end(), [&](const std::string& module) { return lies_in(site->name, module); });
  });
  if (sites.empty()) throw UsageError({.what = "all targets lie in modules that are trained whole", .where = "expert.modules_to_save"});
  return sites;
}

std::vector<std::string> names_of(const std::vector<nn::WeightSite*>& sites) {
  std::vector<std::string> names;
  for (const nn::WeightSite* site : sites) names.push_back(site->name);
  return names;
}

std::vector<std::string> peft_targets(const std::vector<nn::WeightSite*>& sites, backbones::Backbone& backbone) {
  return target_list(names_of(sites), other_maps(names_of(sites), backbone));
}

std::vector<std::string> other_maps(const std::vector<std::string>& chosen, backbones::Backbone& backbone) {
  // Linear maps that models of transformers have and a checkpoint may lack come first.
  std::vector<std::string> others = {"pooler.dense",        "classifier",     "classifier.dense",
                                     "classifier.out_proj", "lm_head.dense",  "cls.predictions.transform.dense",
                                     "visual_projection",   "text_projection"};
  for (const nn::WeightSite* site : backbone.sites().weights) others.push_back(site->name);
  std::erase_if(others, [&](const std::string& name) { return std::find(chosen.begin(), chosen.end(), name) != chosen.end(); });
  return others;
}

void refuse_unless_plain(const Json& config, const std::string& where, const std::string& key, const Json& plain) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null() || *found == plain || (found->is_structured() && found->empty())) return;
  throw Error({.what = "key \"" + key + "\" asks for something that is not supported",
               .where = where,
               .expected = plain.dump(),
               .got = printable(found->dump(-1, ' ', false, Json::error_handler_t::replace))});
}

std::vector<std::string> known_kinds() {
  std::vector<std::string> kinds;
  for (const Maker maker : makers) kinds.emplace_back(maker()->kind());
  return kinds;
}

std::unique_ptr<ExpertRecipe> expert_recipe(std::string_view kind) {
  for (const Maker maker : makers) {
    std::unique_ptr<ExpertRecipe> recipe = maker();
    if (recipe->kind() == kind) return recipe;
  }
  const std::vector<std::string> kinds = known_kinds();
  const std::optional<std::string> close = nearest(kind, kinds);
  throw UsageError({.what = "kind of expert is unknown",
                    .where = "expert.method",
                    .expected = "one of " + listed(kinds),
                    .got = "\"" + printable(kind) + "\"",
                    .hint = close ? "did you mean \"" + *close + "\"?" : ""});
}

void save_expert(const Expert& expert, const std::filesystem::path& folder, const Json& metadata) {
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  if (failure) throw Error({.what = "cannot create the folder", .where = folder.string(), .got = failure.message()});
  std::vector<at::Tensor> kept;
  std::vector<io::TensorEntry> entries;
  for (const nn::NamedTensor& named : expert.tensors()) {
    kept.push_back(named.tensor.detach().to(at::kCPU).contiguous());
    entries.push_back(nn::to_entry(key_of(named.name), kept.back()));
  }
  write_file_atomically(folder / "adapter_config.json", expert.config().dump(2) + "\n");
  io::write_safetensors(folder / "adapter_model.safetensors", entries, {{"format", "pt"}, {"mmtune", metadata.dump()}});
}

}  // namespace mmtune::experts
