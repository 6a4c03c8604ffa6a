#include "experts/peft_targets.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <regex>

#include "core/error.h"

namespace mmtune::experts {

namespace {

std::regex compiled(const std::string& pattern, const std::string& where) {
  constexpr std::size_t longest = 4096;
  auto flags = std::regex::ECMAScript;
#ifdef __GLIBCXX__
  // Matching in polynomial time, whatever a file from elsewhere asks for.
  flags |= std::regex_constants::__polynomial;
#endif
  try {
    if (pattern.size() <= longest) return std::regex(pattern, flags);
  } catch (const std::regex_error&) {
    // told below
  }
  throw Error({.what = "this regular expression is not understood", .where = where, .got = "\"" + printable(pattern) + "\""});
}

bool is_ending(const std::string& module, const std::string& ending) {
  if (module == ending) return true;
  return module.size() > ending.size() && module.ends_with(ending) && module[module.size() - ending.size() - 1] == '.';
}

const Json* find(const Json& config, const std::string& key) {
  const auto found = config.find(key);
  return found == config.end() || found->is_null() ? nullptr : &*found;
}

bool is_strings(const Json& value) {
  return value.is_array() && std::all_of(value.begin(), value.end(), [](const Json& one) { return one.is_string(); });
}

/// A value that is a string or a list of strings.
bool chosen_by(const Json& value, const std::string& module, const std::string& where) {
  if (value.is_string()) return std::regex_match(module, compiled(value.get<std::string>(), where));
  return std::any_of(value.begin(), value.end(), [&](const Json& one) { return is_ending(module, one.get<std::string>()); });
}

/// The number behind the first component that has one, or behind a component of `pattern`.
std::optional<std::int64_t> layer_index(const std::string& module, const std::vector<std::string>& patterns, const std::string& where) {
  std::vector<std::string> expressions;
  for (const std::string& pattern : patterns) expressions.push_back("(?:.*?\\.)?(?:" + pattern + ")\\.([0-9]+)\\..*");
  if (expressions.empty()) expressions.emplace_back(".*?\\.[^.]*\\.([0-9]+)\\..*");
  for (const std::string& expression : expressions) {
    std::smatch match;
    if (!std::regex_match(module, match, compiled(expression, where))) continue;
    const std::string digits = match[match.size() - 1].str();
    std::int64_t index = 0;
    if (std::from_chars(digits.data(), digits.data() + digits.size(), index).ec == std::errc()) return index;
  }
  return std::nullopt;
}

}  // namespace

bool ends_in_pattern(const std::string& module, const std::string& pattern, const std::string& where) {
  return std::regex_match(module, compiled("(.*\\.)?(" + pattern + ")", where));
}

bool lies_in(const std::string& name, const std::string& ending) {
  for (std::size_t end = name.find('.');; end = name.find('.', end + 1)) {
    if (is_ending(name.substr(0, end), ending)) return true;
    if (end == std::string::npos) return false;
  }
}

TargetRules::TargetRules(const Json& config, const std::string& where) : config_(&config), where_(where) {
  const auto refuse = [&](const std::string& key, const std::string& expected) {
    throw Error({.what = "key \"" + key + "\" has the wrong type",
                 .where = where,
                 .expected = expected,
                 .got = printable(config.at(key).dump(-1, ' ', false, Json::error_handler_t::replace))});
  };
  for (const char* key : {"target_modules", "exclude_modules", "layers_pattern", "feedforward_modules"}) {
    const Json* value = find(config, key);
    if (value && !value->is_string() && !is_strings(*value)) refuse(key, "a string or a list of strings");
  }
  if (const Json* value = find(config, "modules_to_save")) {
    if (!is_strings(*value)) refuse("modules_to_save", "a list of strings");
    for (const Json& one : *value) {
      const auto name = one.get<std::string>();
      if (std::find(saved_.begin(), saved_.end(), name) == saved_.end()) saved_.push_back(name);
    }
  }
  if (const Json* value = find(config, "layers_to_transform")) {
    const auto integers = [](const Json& v) {
      return v.is_array() && std::all_of(v.begin(), v.end(), [](const Json& one) { return one.is_number_integer(); });
    };
    if (!value->is_number_integer() && !integers(*value)) refuse("layers_to_transform", "an integer or a list of integers");
  }
}

bool TargetRules::chooses(const std::string& module) const {
  if (const Json* excluded = find(*config_, "exclude_modules"); excluded && !excluded->empty())
    if (chosen_by(*excluded, module, where_ + " (exclude_modules)")) return false;
  for (const std::string& saved : saved_)
    if (lies_in(module, saved)) return false;
  const Json* targets = find(*config_, "target_modules");
  if (!targets) return false;
  if (targets->is_string()) {
    std::string text = targets->get<std::string>();
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
    if (text == "all-linear") return true;
    return chosen_by(*targets, module, where_ + " (target_modules)");
  }
  for (const Json& one : *targets)
    if (one == module) return true;  // named whole: in whichever layer it stands
  if (!chosen_by(*targets, module, where_)) return false;
  const Json* layers = find(*config_, "layers_to_transform");
  if (!layers || (layers->is_array() && layers->empty())) return true;
  std::vector<std::string> patterns;
  if (const Json* pattern = find(*config_, "layers_pattern")) {
    if (pattern->is_array()) patterns = pattern->get<std::vector<std::string>>();
    if (pattern->is_string()) patterns = {pattern->get<std::string>()};
    std::erase(patterns, "");
  }
  const std::optional<std::int64_t> index = layer_index(module, patterns, where_ + " (layers_pattern)");
  if (!index) return false;
  if (layers->is_number_integer()) return *layers == *index;
  return std::any_of(layers->begin(), layers->end(), [&](const Json& one) { return one == *index; });
}

bool TargetRules::named_under(const std::string& key, const std::string& module) const {
  const Json* value = find(*config_, key);
  if (!value) return false;
  if (value->is_string()) return chosen_by(*value, module, where_ + " (" + key + ")");
  // PEFT asks for the end of the text here, not for whole components.
  return std::any_of(value->begin(), value->end(), [&](const Json& one) { return module.ends_with(one.get<std::string>()); });
}

std::vector<std::string> target_list(const std::vector<std::string>& chosen, const std::vector<std::string>& others) {
  std::set<std::string> endings;
  for (const std::string& name : chosen) {
    std::size_t begin = name.size();
    std::string ending;
    do {
      begin = begin == 0 ? 0 : name.rfind('.', begin - 1);
      if (begin == std::string::npos) begin = 0;
      ending = begin == 0 ? name : name.substr(begin + 1);
    } while (begin != 0 && std::any_of(others.begin(), others.end(), [&](const std::string& other) { return is_ending(other, ending); }));
    endings.insert(ending);
  }
  return {endings.begin(), endings.end()};
}

FactorLists factor_lists(const std::vector<std::string>& inputs, const std::vector<std::string>& outputs,
                         const std::vector<std::string>& others) {
  const auto list = [&](const std::vector<std::string>& chosen, std::vector<std::string> rest) {
    rest.insert(rest.end(), others.begin(), others.end());
    return target_list(chosen, rest);
  };
  FactorLists lists{list(outputs, inputs), list(inputs, outputs)};
  lists.targets.insert(lists.targets.end(), lists.feed_forward.begin(), lists.feed_forward.end());
  return lists;
}

}  // namespace mmtune::experts
