#include "data/batching.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "data/random.h"

namespace mmtune::data {

namespace {

void need(bool condition, const char* key, const char* expected, std::int64_t got) {
  if (condition) return;
  throw UsageError({.what = "out of range", .where = key, .expected = expected, .got = std::to_string(got)});
}

/// Deals items, longest first, to `count` batches: forwards, then backwards, and so on, which evens the totals out.
std::vector<std::int64_t> deal(std::span<const std::int64_t> longest_first, std::size_t count) {
  std::vector<std::vector<std::int64_t>> hands(count);
  for (std::size_t i = 0; i < longest_first.size(); ++i) {
    const std::size_t place = i % count;
    hands[i / count % 2 == 0 ? place : count - 1 - place].push_back(longest_first[i]);
  }
  std::vector<std::int64_t> dealt;
  dealt.reserve(longest_first.size());
  for (const auto& hand : hands) dealt.insert(dealt.end(), hand.begin(), hand.end());
  return dealt;
}

}  // namespace

std::span<const std::int64_t> EpochOrder::batch(std::int64_t i) const {
  MMTUNE_ASSERT(i >= 0 && i < size());
  const std::size_t begin = starts_[static_cast<std::size_t>(i)];
  return std::span(examples_).subspan(begin, starts_[static_cast<std::size_t>(i) + 1] - begin);
}

BatchPlan::BatchPlan(std::int64_t examples, BatchOptions options, std::span<const std::int64_t> lengths,
                     std::span<const std::int64_t> groups)
    : examples_(examples), options_(options), lengths_(lengths.begin(), lengths.end()), groups_(groups.begin(), groups.end()) {
  need(examples > 0, "examples", "at least one", examples);
  need(options.batch > 0, "batch", "at least 1", options.batch);
  need(options.pool > 0, "pool", "at least 1", options.pool);
  need(options.shards > 0, "shards", "at least 1", options.shards);
  need(options.shard >= 0 && options.shard < options.shards, "shard", "a number below shards", options.shard);
  if (options.drop_last) need(examples >= options.batch, "examples", "at least one full batch, for drop_last", examples);
  MMTUNE_ASSERT(options.lengths == Lengths::ignored || static_cast<std::int64_t>(lengths_.size()) == examples);
  MMTUNE_ASSERT(groups_.empty() || (static_cast<std::int64_t>(groups_.size()) == examples && options.lengths == Lengths::ignored));
}

std::int64_t BatchPlan::batches() const {
  const std::int64_t full = examples_ / options_.batch;
  return full + (!options_.drop_last && examples_ % options_.batch != 0 ? 1 : 0);
}

void BatchPlan::group_pool(std::span<std::int64_t> pool) const {
  const auto longer = [this](std::int64_t a, std::int64_t b) {
    return lengths_[static_cast<std::size_t>(a)] > lengths_[static_cast<std::size_t>(b)];
  };
  // Stable: examples of one length stay in their shuffled order.
  std::stable_sort(pool.begin(), pool.end(), longer);
  if (options_.lengths == Lengths::balanced) {
    const auto dealt = deal(pool, pool.size() / static_cast<std::size_t>(options_.batch));
    std::copy(dealt.begin(), dealt.end(), pool.begin());
  }
}

void BatchPlan::gather_groups(std::span<std::int64_t> order) const {
  // A group stands where its first example stood, so that the groups' order is as random as the examples' was.
  std::unordered_map<std::int64_t, std::size_t> place;
  for (std::size_t i = 0; i < order.size(); ++i) place.try_emplace(groups_[static_cast<std::size_t>(order[i])], i);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return place.at(groups_[static_cast<std::size_t>(a)]) < place.at(groups_[static_cast<std::size_t>(b)]);
  });
}

EpochOrder BatchPlan::epoch(std::int64_t epoch) const {
  const std::uint64_t seed = mix_seed(options_.seed, static_cast<std::uint64_t>(epoch));
  std::vector<std::int64_t> order;
  if (options_.shuffle) {
    order = permutation(examples_, seed);
    if (!groups_.empty()) gather_groups(order);
  } else {
    order.resize(static_cast<std::size_t>(examples_));
    std::iota(order.begin(), order.end(), std::int64_t{0});
  }
  const auto batch = static_cast<std::size_t>(options_.batch);
  const std::size_t full = order.size() / batch;
  std::vector<std::int64_t> batch_order(full);
  std::iota(batch_order.begin(), batch_order.end(), std::int64_t{0});
  if (options_.lengths != Lengths::ignored) {
    const std::size_t pool = static_cast<std::size_t>(std::min(options_.pool, batches())) * batch;
    for (std::size_t begin = 0; begin < full * batch; begin += pool) {
      group_pool(std::span(order).subspan(begin, std::min(pool, full * batch - begin)));
    }
    // Otherwise every pool would run from its longest batch to its shortest.
    Random random(mix_seed(seed, 1));
    if (options_.shuffle) shuffle(batch_order, random);
  }
  EpochOrder result;
  result.examples_.reserve(order.size() / static_cast<std::size_t>(options_.shards) + batch_order.size() + 1);
  const auto append = [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin + static_cast<std::size_t>(options_.shard); i < end; i += static_cast<std::size_t>(options_.shards)) {
      result.examples_.push_back(order[i]);
    }
    result.starts_.push_back(result.examples_.size());
  };
  for (const std::int64_t b : batch_order) append(static_cast<std::size_t>(b) * batch, (static_cast<std::size_t>(b) + 1) * batch);
  if (!options_.drop_last && full * batch < order.size()) append(full * batch, order.size());
  return result;
}

Position BatchPlan::next(Position position) const {
  ++position.batch;
  if (position.batch >= batches()) return {position.epoch + 1, 0};
  return position;
}

}  // namespace mmtune::data
