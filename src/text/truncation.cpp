#include "text/truncation.h"

#include <algorithm>

#include "core/error.h"
#include "text/json_fields.h"
#include "text/vocabulary.h"

namespace mmtune::text {

namespace {

Range cut(std::int64_t size, std::int64_t to, const Truncation& truncation) {
  if (to < size && to > 0 && truncation.stride >= to) {
    throw Error({.what = "cannot truncate to " + std::to_string(to) + " tokens",
                 .expected = "a stride below that",
                 .got = std::to_string(truncation.stride)});
  }
  const std::int64_t kept = std::min(size, to);
  const std::int64_t begin = truncation.side == TruncationSide::left ? size - kept : 0;
  return {static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(begin + kept)};
}

}  // namespace

Kept truncate(const Truncation& truncation, std::int64_t added, std::int64_t first, std::optional<std::int64_t> second) {
  const Kept everything{{0, static_cast<std::uint32_t>(first)}, {0, static_cast<std::uint32_t>(second.value_or(0))}};
  const std::int64_t room = truncation.max_length - added;
  const std::int64_t total = first + second.value_or(0);
  if (room < 0 || total <= room) return everything;
  if (room == 0) return {{0, 0}, {0, 0}};

  Kept kept = everything;
  if (truncation.strategy == TruncationStrategy::longest_first) {
    if (!second) {
      kept.first = cut(first, room, truncation);
      return kept;
    }
    // The shorter one keeps what it has while it is at most half of the room; otherwise both get half, the longer one the odd token.
    std::int64_t shorter = std::min(first, *second);
    std::int64_t longer = std::max(shorter, room - shorter);
    if (shorter + longer > room) {
      shorter = room / 2;
      longer = room - shorter;
    }
    const bool first_is_longer = first > *second;
    kept.first = cut(first, first_is_longer ? longer : shorter, truncation);
    kept.second = cut(*second, first_is_longer ? shorter : longer, truncation);
    return kept;
  }

  const bool cut_first = truncation.strategy == TruncationStrategy::only_first;
  if (!cut_first && !second) throw Error({.what = "cannot truncate the second sequence only: there is one sequence"});
  const std::int64_t target = cut_first ? first : *second;
  const std::int64_t surplus = total - room;
  if (target <= surplus) {
    throw Error(
        {.what = std::string("the ") + (cut_first ? "first" : "second") + " sequence is too short to truncate to the maximal length",
         .expected = "more than " + std::to_string(surplus) + " tokens",
         .got = std::to_string(target)});
  }
  (cut_first ? kept.first : kept.second) = cut(target, target - surplus, truncation);
  return kept;
}

Truncation read_truncation(const Json& json, const std::string& where) {
  JsonFields fields(json, where);
  Truncation made;
  made.max_length = fields.integer("max_length", 0, Vocabulary::kLargestId);
  made.stride = fields.integer("stride", 0, Vocabulary::kLargestId);
  const std::string strategy = fields.string("strategy");
  if (strategy == "LongestFirst") {
    made.strategy = TruncationStrategy::longest_first;
  } else if (strategy == "OnlyFirst") {
    made.strategy = TruncationStrategy::only_first;
  } else if (strategy == "OnlySecond") {
    made.strategy = TruncationStrategy::only_second;
  } else {
    fields.fail("strategy", "LongestFirst, OnlyFirst or OnlySecond", fields.any("strategy"));
  }
  const std::string side = fields.optional("direction") != nullptr ? fields.string("direction") : "Right";
  if (side != "Left" && side != "Right") fields.fail("direction", "Left or Right", fields.any("direction"));
  made.side = side == "Left" ? TruncationSide::left : TruncationSide::right;
  fields.finish();
  return made;
}

}  // namespace mmtune::text
