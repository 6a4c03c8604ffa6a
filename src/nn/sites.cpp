#include "nn/sites.h"

#include <array>
#include <utility>

namespace mmtune::nn {

namespace {

bool glob(std::string_view name, std::string_view pattern) {
  if (pattern.empty()) return name.empty();
  if (pattern.front() == '*') {
    for (std::size_t skip = 0; skip <= name.size(); ++skip)
      if (glob(name.substr(skip), pattern.substr(1))) return true;
    return false;
  }
  return !name.empty() && name.front() == pattern.front() && glob(name.substr(1), pattern.substr(1));
}

bool matches_plain(std::string_view name, std::string_view pattern) {
  if (pattern.find('*') != std::string_view::npos) return glob(name, pattern);
  if (name == pattern) return true;
  return name.size() > pattern.size() && name.ends_with(pattern) && name[name.size() - pattern.size() - 1] == '.';
}

}  // namespace

bool matches(std::string_view name, std::string_view pattern) {
  if (matches_plain(name, pattern)) return true;
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 3> newer = {
      {{"q_proj", "query"}, {"k_proj", "key"}, {"v_proj", "value"}}};
  for (const auto& [theirs, published] : newer) {
    const std::size_t found = pattern.rfind(theirs);
    if (found == std::string_view::npos) continue;
    std::string translated(pattern);
    translated.replace(found, theirs.size(), published);
    if (matches_plain(name, translated)) return true;
  }
  return false;
}

}  // namespace mmtune::nn
