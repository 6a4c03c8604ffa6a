#include "nn/sites.h"

#include <algorithm>
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

/// The pattern in the other of the two families of names that checkpoints have for attention's three maps.
std::string renamed(std::string_view pattern) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 3> names = {
      {{"q_proj", "query"}, {"k_proj", "key"}, {"v_proj", "value"}}};
  std::string result;
  for (std::size_t begin = 0; begin <= pattern.size();) {
    const std::size_t end = std::min(pattern.find('.', begin), pattern.size());
    std::string_view part = pattern.substr(begin, end - begin);
    for (const auto& [one, other] : names) {
      if (part == one || part == other) {
        part = part == one ? other : one;
        break;
      }
    }
    result += (begin == 0 ? "" : ".") + std::string(part);
    begin = end + 1;
  }
  return result;
}

}  // namespace

std::optional<std::string> spelling(std::string_view name, std::string_view pattern) {
  if (matches_plain(name, pattern)) return std::string(pattern);
  const std::string other = renamed(pattern);
  if (matches_plain(name, other)) return other;
  // The second map of the feed-forward, where it has no name in common with the attention's output.
  for (const char* own : {"fc2", "output_dense"})
    if (pattern == "output.dense" && matches_plain(name, own)) return own;
  return std::nullopt;
}

bool matches(std::string_view name, std::string_view pattern) {
  return spelling(name, pattern).has_value();
}

}  // namespace mmtune::nn
