#include "backbones/candidate_trie.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace mmtune::backbones {

CandidateTrie::CandidateTrie(std::span<const std::vector<std::int64_t>> candidates, std::optional<std::int64_t> end) : following_(1) {
  if (candidates.empty())
    throw Error({.what = "a list of candidates without any forbids every token",
                 .where = "candidates",
                 .expected = "at least one answer",
                 .got = "none"});
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    std::int64_t node = root;
    const auto step = [&](std::int64_t token) {
      const auto [found, added] = children_.try_emplace({node, token}, size());
      if (added) {
        tokens_.push_back(token);
        parents_.push_back(node);
        following_[static_cast<std::size_t>(node + 1)].push_back(token);
        following_.emplace_back();
      }
      node = found->second;
    };
    for (const std::int64_t token : candidates[i]) step(token);
    if (end) step(*end);
    if (node == root)
      throw Error({.what = "a candidate has no token",
                   .where = "candidate " + std::to_string(i),
                   .expected = "at least one token",
                   .got = "an empty answer"});
    last_.push_back(node);
  }
}

std::int64_t CandidateTrie::length(std::int64_t candidate) const {
  std::int64_t count = 0;
  for (std::int64_t node = last(candidate); node != root; node = parents_[static_cast<std::size_t>(node)]) ++count;
  return count;
}

std::optional<std::int64_t> CandidateTrie::child(std::int64_t node, std::int64_t token) const {
  const auto found = children_.find({node, token});
  return found == children_.end() ? std::nullopt : std::optional(found->second);
}

std::int64_t CandidateTrie::largest_token() const {
  return *std::max_element(tokens_.begin(), tokens_.end());
}

}  // namespace mmtune::backbones
