#pragma once
// A tree of tokens as a decoder reads it in one pass: every node sees its ancestors only.

#include <cstdint>
#include <vector>

namespace mmtune::backbones {

/// Some of a tree's inner nodes, with all their ancestors among them.
struct TokenTreePart {
  std::vector<std::int64_t> nodes;    ///< numbers in the whole tree, parents first
  std::vector<std::int64_t> parents;  ///< places in `nodes`; -1: behind what was read
  std::vector<std::int64_t> depths;   ///< 0 for those behind what was read
};

/// The nodes that something follows, in parts of about `most` nodes that do not see each other: only branches of the first node are kept
/// together. What nothing follows need not be read.
std::vector<TokenTreePart> inner_parts(const std::vector<std::int64_t>& parents, std::int64_t most);

}  // namespace mmtune::backbones
