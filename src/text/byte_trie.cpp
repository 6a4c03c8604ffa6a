#include "text/byte_trie.h"

#include <algorithm>

#include "core/error.h"

namespace mmtune::text {

ByteTrie::ByteTrie(std::vector<Entry> entries) {
  if (entries.empty()) return;
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.key < b.key; });
  struct Open {
    std::size_t begin, end, depth;
    std::uint32_t node;
  };
  units_.resize(257);
  std::vector<Open> open{{0, entries.size(), 0, kRoot}};
  std::vector<unsigned char> labels;
  std::vector<std::size_t> begins;
  while (!open.empty()) {
    auto [begin, end, depth, node] = open.back();
    open.pop_back();
    if (entries[begin].key.size() == depth) {
      MMTUNE_ASSERT(depth > 0 && entries[begin].value >= 0);
      units_[node].value = entries[begin++].value;
      MMTUNE_ASSERT(begin == end || entries[begin].key.size() > depth);
    }
    labels.clear();
    begins.clear();
    for (std::size_t i = begin; i < end; ++i) {
      const auto byte = static_cast<unsigned char>(entries[i].key[depth]);
      if (!labels.empty() && labels.back() == byte) continue;
      labels.push_back(byte);
      begins.push_back(i);
    }
    if (labels.empty()) continue;
    begins.push_back(end);
    const std::uint32_t base = place(labels);
    units_[node].base = base;
    for (const unsigned char label : labels) units_[base + label].parent = node;
    for (std::size_t i = labels.size(); i-- > 0;) open.push_back({begins[i], begins[i + 1], depth + 1, base + labels[i]});
  }
}

// The first base from which all labels' places are free. Stretches that are nearly full are not searched again.
std::uint32_t ByteTrie::place(const std::vector<unsigned char>& labels) {
  std::uint32_t taken = 0;
  for (std::uint32_t at = std::max<std::uint32_t>(search_from_, labels.front() + 1U);; ++at) {
    const std::uint32_t base = at - labels.front();
    if (units_.size() < std::size_t{base} + 257) units_.resize(std::max<std::size_t>(base + 257, units_.size() + units_.size() / 2));
    if (units_[at].parent != kNone) {
      ++taken;
      continue;
    }
    if (std::any_of(labels.begin(), labels.end(), [&](unsigned char label) { return units_[base + label].parent != kNone; })) continue;
    const std::uint32_t seen = at - search_from_ + 1;
    if (seen > 64 && taken > seen - seen / 16) search_from_ = at;
    return base;
  }
}

std::size_t ByteTrie::longest(std::string_view bytes) const {
  std::size_t found = 0;
  if (empty()) return found;
  std::uint32_t node = kRoot;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    node = child(node, static_cast<unsigned char>(bytes[i]));
    if (node == kNone) break;
    if (value(node) >= 0) found = i + 1;
  }
  return found;
}

}  // namespace mmtune::text
