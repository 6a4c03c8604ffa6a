#include "data/split.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "core/error.h"
#include "core/hash.h"
#include "data/random.h"

namespace mmtune::data {

namespace {

std::int64_t held_out(double fraction, std::size_t n) {
  if (!(fraction > 0 && fraction < 1)) {
    throw UsageError({.what = "the held-out part", .expected = "a fraction between 0 and 1", .got = std::to_string(fraction)});
  }
  const auto count = static_cast<std::int64_t>(std::llround(fraction * static_cast<double>(n)));
  if (count == 0 || count == static_cast<std::int64_t>(n)) {
    throw UsageError({.what = count == 0 ? "the held-out part would be empty" : "the training part would be empty",
                      .got = std::to_string(fraction) + " of " + std::to_string(n) + " examples"});
  }
  return count;
}

Split parts(const std::vector<bool>& is_valid) {
  Split split;
  for (std::size_t i = 0; i < is_valid.size(); ++i) (is_valid[i] ? split.valid : split.train).push_back(static_cast<std::int64_t>(i));
  return split;
}

Dataset subset(const Dataset& dataset, const std::vector<std::int64_t>& indices, const char* part, double fraction, std::uint64_t seed) {
  Dataset result;
  result.source = dataset.source;
  result.classes = dataset.classes;
  result.multi_label = dataset.multi_label;
  result.fingerprint = Fingerprint()
                           .add_field(dataset.fingerprint)
                           .add_field(part)
                           .add_field(std::to_string(fraction))
                           .add_field(static_cast<std::int64_t>(seed))
                           .hex();
  result.examples.reserve(indices.size());
  for (const std::int64_t i : indices) result.examples.push_back(dataset.examples[static_cast<std::size_t>(i)]);
  return result;
}

}  // namespace

Split split_stratified(std::span<const std::int64_t> strata, double fraction, std::uint64_t seed) {
  const std::int64_t wanted = held_out(fraction, strata.size());
  struct Stratum {
    std::vector<std::int64_t> members;
    std::int64_t take = 0;
    double rest = 0;
  };
  std::map<std::int64_t, Stratum> by_key;
  for (std::size_t i = 0; i < strata.size(); ++i) by_key[strata[i]].members.push_back(static_cast<std::int64_t>(i));

  // Whole parts first, then one more to those with the largest remainders.
  std::int64_t taken = 0;
  std::vector<Stratum*> by_rest;
  for (auto& [key, stratum] : by_key) {
    const double share = static_cast<double>(wanted) * static_cast<double>(stratum.members.size()) / static_cast<double>(strata.size());
    const auto most = static_cast<std::int64_t>(stratum.members.size()) - 1;
    stratum.take = std::min(static_cast<std::int64_t>(std::floor(share)), most);
    stratum.rest = share - static_cast<double>(stratum.take);
    taken += stratum.take;
    by_rest.push_back(&stratum);
  }
  std::stable_sort(by_rest.begin(), by_rest.end(), [](const Stratum* a, const Stratum* b) { return a->rest > b->rest; });
  for (bool any = true; any && taken < wanted;) {
    any = false;
    for (Stratum* stratum : by_rest) {
      if (taken == wanted || stratum->take + 1 >= static_cast<std::int64_t>(stratum->members.size())) continue;
      ++stratum->take;
      ++taken;
      any = true;
    }
  }
  if (taken == 0) {
    throw UsageError({.what = "nothing can be held out", .got = "one example of every class", .hint = "give a validation file of its own"});
  }
  std::vector<bool> is_valid(strata.size(), false);
  for (auto& [key, stratum] : by_key) {
    Random random(mix_seed(seed, static_cast<std::uint64_t>(key)));
    shuffle(stratum.members, random);
    for (std::int64_t i = 0; i < stratum.take; ++i) is_valid[static_cast<std::size_t>(stratum.members[static_cast<std::size_t>(i)])] = true;
  }
  return parts(is_valid);
}

Split split_grouped(std::span<const std::string> groups, double fraction, std::uint64_t seed) {
  const std::int64_t wanted = held_out(fraction, groups.size());
  std::unordered_map<std::string_view, std::size_t> number;
  std::vector<std::vector<std::int64_t>> members;  // in order of first appearance
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const auto [entry, added] = number.try_emplace(groups[i], members.size());
    if (added) members.emplace_back();
    members[entry->second].push_back(static_cast<std::int64_t>(i));
  }
  if (members.size() < 2) {
    throw UsageError({.what = "nothing can be held out", .got = "one group of examples", .hint = "give a validation file of its own"});
  }
  std::vector<bool> is_valid(groups.size(), false);
  std::int64_t taken = 0;
  std::size_t groups_taken = 0;
  for (const std::int64_t g : permutation(static_cast<std::int64_t>(members.size()), seed)) {
    const auto& group = members[static_cast<std::size_t>(g)];
    const bool fits = taken + static_cast<std::int64_t>(group.size()) <= wanted;
    if ((!fits && taken > 0) || groups_taken + 1 == members.size()) continue;
    for (const std::int64_t i : group) is_valid[static_cast<std::size_t>(i)] = true;
    taken += static_cast<std::int64_t>(group.size());
    ++groups_taken;
  }
  return parts(is_valid);
}

std::pair<Dataset, Dataset> split_dataset(const Dataset& dataset, double fraction, std::uint64_t seed) {
  std::vector<std::string> pictures;
  std::vector<std::int64_t> strata;
  std::unordered_set<std::string> distinct;
  bool shared = false;
  for (std::size_t i = 0; i < dataset.examples.size(); ++i) {
    const Example& example = dataset.examples[i];
    strata.push_back(example.labels.empty() ? -1 : example.labels.front());
    // Examples without a picture or sound are groups of their own.
    std::string key = "\n" + std::to_string(i);
    if (const auto& media = example.image ? example.image : example.audio ? example.audio : example.video)
      key = media->display() + "@" + std::to_string(media->offset);
    pictures.push_back(key);
    shared = !distinct.insert(std::move(key)).second || shared;
  }
  const Split split = shared ? split_grouped(pictures, fraction, seed) : split_stratified(strata, fraction, seed);
  return {subset(dataset, split.train, "train", fraction, seed), subset(dataset, split.valid, "valid", fraction, seed)};
}

}  // namespace mmtune::data
