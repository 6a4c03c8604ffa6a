#pragma once
// The merges of byte-pair encoding: a hash table from two neighbouring tokens to the token that they become.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"
#include "text/vocabulary.h"

namespace mmtune::text {

/// The two tokens of a merge, as a file spells them.
using MergeNames = std::pair<std::string, std::string>;

class MergeTable {
 public:
  struct Merge {
    std::uint32_t rank;
    std::int64_t id;
  };

  MergeTable() : slots_(2) {}
  /// Ranks count from 0; of a pair that stands there twice the last one counts. The result of (a, b) is the token a + b without the
  /// first `prefix_size` bytes of b. Throws Error naming `where` and the merge if a token or the result is not in the vocabulary.
  MergeTable(const std::vector<MergeNames>& names, const Vocabulary& vocabulary, std::size_t prefix_size, const std::string& where);

  /// nullptr where the two do not merge. Ids are at most Vocabulary::kLargestId.
  const Merge* find(std::int64_t left, std::int64_t right) const;
  std::size_t size() const { return size_; }

 private:
  struct Slot {
    std::uint64_t pair = kEmpty;
    Merge merge{};
  };
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};

  static std::uint64_t pair_of(std::int64_t left, std::int64_t right) {
    return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint64_t>(right);
  }
  std::size_t slot_of(std::uint64_t pair) const;

  std::vector<Slot> slots_;
  int shift_ = 63;
  std::size_t size_ = 0;
};

/// Reads the merges of a tokenizer.json: a list of "a b" (lines that begin with #version left out) or of [a, b].
std::vector<MergeNames> read_merges(const Json& json, const std::string& where);

/// Reads merges.txt: a line "a b" each, lines that begin with #version left out. Throws Error naming the line.
std::vector<MergeNames> read_merges_txt(const std::string& text, const std::string& where);

}  // namespace mmtune::text
