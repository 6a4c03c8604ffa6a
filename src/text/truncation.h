#pragma once
// Truncation: which tokens of one or two sequences stay within a length.

#include <cstdint>
#include <optional>
#include <string>

#include "core/json.h"
#include "text/aligned_text.h"

namespace mmtune::text {

enum class TruncationStrategy { longest_first, only_first, only_second };
enum class TruncationSide { left, right };

struct Truncation {
  std::int64_t max_length = 512;  ///< special tokens included
  TruncationStrategy strategy = TruncationStrategy::longest_first;
  TruncationSide side = TruncationSide::right;
  std::int64_t stride = 0;  ///< of the overflow, which is not kept; the reference package demands that it is below every length cut to
};

/// The tokens that stay of a first sequence and of a second one.
struct Kept {
  Range first;
  Range second;
};

/// What stays of `first` and `second` tokens (nullopt: no second sequence) when `added` special tokens come on top. As in the reference
/// package, nothing is cut where max_length is smaller than `added`. Throws Error where the strategy cannot reach the length.
Kept truncate(const Truncation& truncation, std::int64_t added, std::int64_t first, std::optional<std::int64_t> second);

/// Reads the `truncation` section of a tokenizer.json.
Truncation read_truncation(const Json& json, const std::string& where);

}  // namespace mmtune::text
