#include "backbones/token_tree.h"

#include "core/error.h"

namespace mmtune::backbones {

std::vector<TokenTreePart> inner_parts(const std::vector<std::int64_t>& parents, std::int64_t most) {
  const std::size_t count = parents.size();
  std::vector<bool> inner(count, false);
  std::vector<std::size_t> branch(count);  // the first node of the branch that a node is on
  std::vector<std::int64_t> size(count, 0);
  for (std::size_t node = 0; node < count; ++node) {
    const std::int64_t parent = parents[node];
    MMTUNE_ASSERT(parent >= -1 && parent < static_cast<std::int64_t>(node));
    if (parent >= 0) inner[static_cast<std::size_t>(parent)] = true;
    branch[node] = parent < 0 ? node : branch[static_cast<std::size_t>(parent)];
  }
  for (std::size_t node = 0; node < count; ++node)
    if (inner[node]) ++size[branch[node]];
  // Branches in their order, as many to a part as it has room for.
  std::vector<TokenTreePart> parts;
  std::vector<std::size_t> part_of(count, 0);
  std::int64_t filled = 0;
  for (std::size_t node = 0; node < count; ++node) {
    if (branch[node] != node || size[node] == 0) continue;
    if (parts.empty() || filled + size[node] > most) {
      parts.emplace_back();
      filled = 0;
    }
    filled += size[node];
    part_of[node] = parts.size() - 1;
  }
  std::vector<std::int64_t> place(count, -1);
  for (std::size_t node = 0; node < count; ++node) {
    if (!inner[node]) continue;
    TokenTreePart& part = parts[part_of[branch[node]]];
    const std::int64_t parent = parents[node] < 0 ? -1 : place[static_cast<std::size_t>(parents[node])];
    place[node] = static_cast<std::int64_t>(part.nodes.size());
    part.nodes.push_back(static_cast<std::int64_t>(node));
    part.parents.push_back(parent);
    part.depths.push_back(parent < 0 ? 0 : part.depths[static_cast<std::size_t>(parent)] + 1);
  }
  return parts;
}

}  // namespace mmtune::backbones
