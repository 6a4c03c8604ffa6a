#pragma once
// The kinds of experts. A new one is one file that defines its recipe, and one line in expert.cpp.

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "experts/expert.h"

namespace mmtune::experts {

std::unique_ptr<ExpertRecipe> full_recipe();
std::unique_ptr<ExpertRecipe> linear_recipe();
std::unique_ptr<ExpertRecipe> bitfit_recipe();
std::unique_ptr<ExpertRecipe> lora_recipe();
std::unique_ptr<ExpertRecipe> ia3_recipe();
std::unique_ptr<ExpertRecipe> adapter_recipe();
std::unique_ptr<ExpertRecipe> prefix_recipe();
std::unique_ptr<ExpertRecipe> prompt_recipe();
std::unique_ptr<ExpertRecipe> ladder_recipe();
std::unique_ptr<ExpertRecipe> mope_recipe();
std::unique_ptr<ExpertRecipe> apt_recipe();
std::unique_ptr<ExpertRecipe> class_token_recipe();
std::unique_ptr<ExpertRecipe> blind_prompt_recipe();
std::unique_ptr<ExpertRecipe> pmf_recipe();
std::unique_ptr<ExpertRecipe> pi_recipe();
std::unique_ptr<ExpertRecipe> visual_prompt_recipe();

/// A trainable leaf holding a copy of `values`.
at::Tensor leaf(const at::Tensor& values);
/// A trainable leaf drawn from normal(0, std), or zeros where std is 0.
at::Tensor normal_leaf(at::IntArrayRef shape, double std, at::Generator& generator);

/// The sites whose names one of `patterns` chooses, in the backbone's order. Throws Error naming a pattern that chooses nothing and the
/// nearest names; `what` tells the kind of site in the message.
template <class Site>
std::vector<Site*> chosen(const std::vector<Site*>& sites, const std::vector<std::string>& patterns, const std::string& what);

/// The linear maps whose names one of `patterns` chooses and that lie in none of the modules `saved`.
std::vector<nn::WeightSite*> chosen_maps(backbones::Backbone& backbone, const std::vector<std::string>& patterns,
                                         const std::vector<std::string>& saved);
std::vector<std::string> names_of(const std::vector<nn::WeightSite*>& sites);
/// The list of PEFT's target_modules that means these of the backbone's linear maps.
std::vector<std::string> peft_targets(const std::vector<nn::WeightSite*>& sites, backbones::Backbone& backbone);
/// The linear maps that are not among `chosen`, those of transformers' own heads included: what a list of targets must not mean.
std::vector<std::string> other_maps(const std::vector<std::string>& chosen, backbones::Backbone& backbone);

/// Whether the blocks of `sites` leave out what nobody reads of prompts (nn::Tokens::prompts_end): causal ones do not, nor Swin's.
bool prompts_end(const backbones::Backbone& backbone, const std::vector<nn::SequenceSite*>& sites);
/// Multiply-accumulates that `prompts` tokens then add to a pass over `tokens` rows if every block brings its own: keys, values, and every
/// row's attention to them.
std::int64_t ending_prompt_macs(const std::vector<nn::SequenceSite*>& sites, std::int64_t tokens, std::int64_t prompts);

/// Puts a hook into a site's list, or takes it out.
template <class Hook>
void attach(std::vector<Hook*>& hooks, std::type_identity_t<Hook>* hook, bool attached) {
  if (attached) {
    hooks.push_back(hook);
  } else {
    std::erase(hooks, hook);
  }
}

/// Throws the Error of chosen() for a pattern that matches none of `names`; `key` is the recipe's.
[[noreturn]] void nothing_chosen(const std::string& pattern, const std::vector<std::string>& names, const std::string& what,
                                 const std::string& key = "expert.targets");

/// Reads `key` of adapter_config.json into `value`; keeps it when the key is absent. Throws Error naming file and key on a wrong type.
void read(const Json& config, const std::string& where, const std::string& key, std::int64_t& value);
void read(const Json& config, const std::string& where, const std::string& key, double& value);
void read(const Json& config, const std::string& where, const std::string& key, bool& value);
void read(const Json& config, const std::string& where, const std::string& key, std::string& value);
void read(const Json& config, const std::string& where, const std::string& key, std::vector<std::string>& value);
void read(const Json& config, const std::string& where, const std::string& key, std::map<std::string, double>& value);

/// "a, b, c and 4 more", printable.
std::string listed(const std::vector<std::string>& names);

/// Throws Error when `key` is there and says something else than one of `plain` (null and empty objects and lists always pass): what we
/// would otherwise ignore silently.
void refuse_unless_plain(const Json& config, const std::string& where, const std::string& key, const Json& plain);

template <class Site>
std::vector<Site*> chosen(const std::vector<Site*>& sites, const std::vector<std::string>& patterns, const std::string& what) {
  std::vector<bool> taken(sites.size(), false);
  for (const std::string& pattern : patterns) {
    bool any = false;
    for (std::size_t i = 0; i < sites.size(); ++i) {
      if (!nn::matches(sites[i]->name, pattern)) continue;
      taken[i] = any = true;
    }
    if (any) continue;
    std::vector<std::string> names;
    for (const Site* site : sites) names.push_back(site->name);
    nothing_chosen(pattern, names, what);
  }
  std::vector<Site*> result;
  for (std::size_t i = 0; i < sites.size(); ++i)
    if (taken[i]) result.push_back(sites[i]);
  return result;
}

}  // namespace mmtune::experts
