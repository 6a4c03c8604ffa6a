#pragma once
// Which modules a PEFT configuration means, by PEFT's own rules, and how to say it in its words.

#include <set>
#include <string>
#include <vector>

#include "core/json.h"

namespace mmtune::experts {

/// Whether `module` is equal to `pattern` or ends in "." + pattern, the pattern being a regular expression: the rule of rank_pattern and
/// alpha_pattern. Throws Error{where} on a pattern that cannot be understood.
bool ends_in_pattern(const std::string& module, const std::string& pattern, const std::string& where);

/// target_modules (a list of endings, a regular expression, or "all-linear"), exclude_modules, layers_to_transform, layers_pattern and
/// modules_to_save of a configuration.
class TargetRules {
 public:
  /// Throws Error naming `where` and the key on a value of a wrong type and on a regular expression that cannot be understood.
  TargetRules(const Json& config, const std::string& where);

  /// Whether the linear map `module` is adapted.
  bool chooses(const std::string& module) const;
  /// Whether `module` is chosen by the list or regular expression under `key` (feedforward_modules); false where there is none.
  bool named_under(const std::string& key, const std::string& module) const;
  /// The entries of modules_to_save.
  const std::vector<std::string>& saved() const { return saved_; }

 private:
  const Json* config_;
  std::string where_;
  std::vector<std::string> saved_;
};

/// Whether the module or tensor `name` is, or lies in, a module that ends in `ending`: "bert.pooler.dense.weight" lies in "pooler".
bool lies_in(const std::string& name, const std::string& ending);

/// The shortest endings by which a list of target_modules means all of `chosen` and none of `others`.
std::vector<std::string> target_list(const std::vector<std::string>& chosen, const std::vector<std::string>& others);

/// IA³'s two lists; PEFT wants every entry of the second among those of the first.
struct FactorLists {
  std::vector<std::string> targets, feed_forward;
};
/// Of maps whose input and of maps whose output is scaled.
FactorLists factor_lists(const std::vector<std::string>& inputs, const std::vector<std::string>& outputs,
                         const std::vector<std::string>& others);

}  // namespace mmtune::experts
