#pragma once
// Byte-pair merges in their order: the lowest rank first, of equals the leftmost.

#include <algorithm>
#include <cstdint>

#include "text/model.h"

namespace mmtune::text {

/// What is done first stands last in the heap's order.
inline bool merges_later(const MergeCandidate& a, const MergeCandidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

/// Merges the symbols of a word until nothing is left to merge. `propose(position)` adds the candidate of the symbol there and the next one
/// to `buffers.candidates`, where there is one; `holds(left, right, candidate)` tells whether a candidate is still true of its symbols.
template <class Propose, class Holds>
void merge_symbols(ModelBuffers& buffers, const Propose& propose, const Holds& holds) {
  auto& symbols = buffers.symbols;
  auto& candidates = buffers.candidates;
  candidates.clear();
  for (std::uint32_t i = 0; i < symbols.size(); ++i) propose(i);
  std::make_heap(candidates.begin(), candidates.end(), merges_later);
  while (!candidates.empty()) {
    std::pop_heap(candidates.begin(), candidates.end(), merges_later);
    const MergeCandidate best = candidates.back();
    candidates.pop_back();
    Symbol& left = symbols[best.position];
    if (left.bytes == 0 || left.next < 0) continue;
    Symbol& right = symbols[static_cast<std::size_t>(left.next)];
    if (!holds(left, right, best)) continue;
    left.id = best.id;
    left.bytes += right.bytes;
    left.next = right.next;
    right.bytes = 0;
    if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = static_cast<std::int32_t>(best.position);
    const std::size_t before = candidates.size();
    if (left.previous >= 0) propose(static_cast<std::uint32_t>(left.previous));
    propose(best.position);
    for (std::size_t size = before + 1; size <= candidates.size(); ++size)
      std::push_heap(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(size), merges_later);
  }
}

}  // namespace mmtune::text
