#pragma once
// Answers that a language model may give, as a tree of tokens: what may follow what, and one pass over all of them.

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace mmtune::backbones {

/// Node `root` stands before the first token; nodes 0 … size() − 1 each hold a token, parents before their children.
class CandidateTrie {
 public:
  static constexpr std::int64_t root = -1;

  /// `end`, where it is given, is put behind every candidate. Throws Error where there is no candidate, or where one has no token at all.
  CandidateTrie(std::span<const std::vector<std::int64_t>> candidates, std::optional<std::int64_t> end);

  std::int64_t size() const { return static_cast<std::int64_t>(tokens_.size()); }
  std::int64_t candidates() const { return static_cast<std::int64_t>(last_.size()); }
  const std::vector<std::int64_t>& tokens() const { return tokens_; }
  const std::vector<std::int64_t>& parents() const { return parents_; }
  /// The node of a candidate's last token; equal candidates share it.
  std::int64_t last(std::int64_t candidate) const { return last_[static_cast<std::size_t>(candidate)]; }
  /// Tokens of a candidate, the end among them.
  std::int64_t length(std::int64_t candidate) const;
  /// Tokens that may follow a node, in the order in which the candidates brought them; none behind the last of a candidate.
  const std::vector<std::int64_t>& following(std::int64_t node) const { return following_[static_cast<std::size_t>(node + 1)]; }
  /// The node of a token behind a node; nothing where it may not follow.
  std::optional<std::int64_t> child(std::int64_t node, std::int64_t token) const;
  std::int64_t largest_token() const;

 private:
  std::vector<std::int64_t> tokens_, parents_, last_;
  std::vector<std::vector<std::int64_t>> following_;
  std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> children_;
};

}  // namespace mmtune::backbones
