#include "data/batching.h"

#include <algorithm>
#include <set>

#include "data/random.h"
#include "unit/data/data_test_support.h"

namespace mmtune::data::test {
namespace {

std::vector<std::vector<std::int64_t>> batches(const BatchPlan& plan, std::int64_t epoch) {
  const EpochOrder order = plan.epoch(epoch);
  std::vector<std::vector<std::int64_t>> result;
  for (std::int64_t i = 0; i < order.size(); ++i) result.emplace_back(order.batch(i).begin(), order.batch(i).end());
  return result;
}

/// Every number of 0 … n−1 exactly once.
void expect_whole(const std::vector<std::vector<std::int64_t>>& all, std::int64_t n) {
  std::vector<std::int64_t> flat;
  for (const auto& batch : all) flat.insert(flat.end(), batch.begin(), batch.end());
  std::sort(flat.begin(), flat.end());
  ASSERT_EQ(static_cast<std::int64_t>(flat.size()), n);
  for (std::int64_t i = 0; i < n; ++i) EXPECT_EQ(flat[static_cast<std::size_t>(i)], i);
}

std::vector<std::int64_t> some_lengths(std::int64_t n) {
  Random random(3);
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < n; ++i) lengths.push_back(4 + static_cast<std::int64_t>(random.below(100)));
  return lengths;
}

TEST(Random, IsTheSameEverywhere) {
  // The first values of SplitMix64 with seed 1234567, as its authors' reference code prints them.
  Random random(1234567);
  EXPECT_EQ(random.next(), 6457827717110365317ULL);
  EXPECT_EQ(random.next(), 3203168211198807973ULL);
  EXPECT_EQ(random.next(), 9817491932198370423ULL);
  EXPECT_EQ(permutation(8, 1), permutation(8, 1));
  EXPECT_NE(permutation(8, 1), permutation(8, 2));
  EXPECT_TRUE(permutation(0, 1).empty());
}

TEST(Random, BelowIsUniform) {
  Random random(7);
  std::vector<int> counts(6, 0);
  for (int i = 0; i < 60000; ++i) ++counts[static_cast<std::size_t>(random.below(6))];
  for (const int count : counts) EXPECT_NEAR(count, 10000, 500);  // about five standard deviations
}

TEST(Batching, CoversEveryExampleOnce) {
  for (const Lengths lengths : {Lengths::ignored, Lengths::similar, Lengths::balanced}) {
    for (const std::int64_t n : {1, 7, 8, 9, 100, 1003}) {
      for (const bool shuffle : {true, false}) {
        const BatchPlan plan(n, {.batch = 8, .shuffle = shuffle, .seed = 1, .lengths = lengths, .pool = 4}, some_lengths(n));
        const auto all = batches(plan, 0);
        expect_whole(all, n);
        ASSERT_EQ(static_cast<std::int64_t>(all.size()), plan.batches());
        for (std::size_t i = 0; i + 1 < all.size(); ++i) EXPECT_EQ(all[i].size(), 8u);
        EXPECT_EQ(all.back().size(), static_cast<std::size_t>(n % 8 == 0 ? 8 : n % 8));
      }
    }
  }
}

TEST(Batching, IsAFunctionOfSeedAndEpoch) {
  for (const Lengths lengths : {Lengths::ignored, Lengths::similar, Lengths::balanced}) {
    const auto work = some_lengths(100);
    const BatchPlan plan(100, {.batch = 8, .seed = 1, .lengths = lengths, .pool = 4}, work);
    const BatchPlan same(100, {.batch = 8, .seed = 1, .lengths = lengths, .pool = 4}, work);
    const BatchPlan other(100, {.batch = 8, .seed = 2, .lengths = lengths, .pool = 4}, work);
    EXPECT_EQ(batches(plan, 3), batches(same, 3));
    EXPECT_NE(batches(plan, 3), batches(plan, 4));
    EXPECT_NE(batches(plan, 3), batches(other, 3));
  }
}

TEST(Batching, WithoutShuffleItIsFileOrder) {
  const BatchPlan plan(5, {.batch = 2, .shuffle = false});
  EXPECT_EQ(batches(plan, 0), (std::vector<std::vector<std::int64_t>>{{0, 1}, {2, 3}, {4}}));
  EXPECT_EQ(batches(plan, 0), batches(plan, 9));
}

TEST(Batching, DropLast) {
  const BatchPlan plan(10, {.batch = 4, .drop_last = true});
  EXPECT_EQ(plan.batches(), 2);
  std::set<std::int64_t> seen;
  for (const auto& batch : batches(plan, 0)) {
    EXPECT_EQ(batch.size(), 4u);
    seen.insert(batch.begin(), batch.end());
  }
  EXPECT_EQ(seen.size(), 8u);
}

TEST(Batching, SimilarLengthsWasteLittlePadding) {
  const auto lengths = some_lengths(2000);
  const auto padded_work = [&](Lengths how) {
    std::int64_t work = 0;
    for (const auto& batch : batches(BatchPlan(2000, {.batch = 16, .seed = 1, .lengths = how}, lengths), 0)) {
      std::int64_t longest = 0;
      for (const std::int64_t i : batch) longest = std::max(longest, lengths[static_cast<std::size_t>(i)]);
      work += longest * static_cast<std::int64_t>(batch.size());
    }
    return static_cast<double>(work);
  };
  double needed = 0;
  for (const std::int64_t length : lengths) needed += static_cast<double>(length);
  EXPECT_GT(padded_work(Lengths::ignored), 1.6 * needed);
  EXPECT_LT(padded_work(Lengths::similar), 1.1 * needed);
}

TEST(Batching, SimilarLengthsStayInRandomOrder) {
  const auto lengths = some_lengths(2000);
  const auto all = batches(BatchPlan(2000, {.batch = 16, .seed = 1, .lengths = Lengths::similar}, lengths), 0);
  int falls = 0;
  for (std::size_t i = 1; i < all.size(); ++i) {
    falls += lengths[static_cast<std::size_t>(all[i][0])] < lengths[static_cast<std::size_t>(all[i - 1][0])] ? 1 : 0;
  }
  EXPECT_GT(falls, 40) << "neither rising";
  EXPECT_LT(falls, 85) << "nor falling through the epoch";
}

TEST(Batching, BalancedTotals) {
  const auto lengths = some_lengths(2000);
  const auto spread = [&](Lengths how) {
    std::int64_t least = 1 << 30;
    std::int64_t most = 0;
    for (const auto& batch : batches(BatchPlan(2000, {.batch = 16, .seed = 1, .lengths = how}, lengths), 0)) {
      std::int64_t total = 0;
      for (const std::int64_t i : batch) total += lengths[static_cast<std::size_t>(i)];
      least = std::min(least, total);
      most = std::max(most, total);
    }
    return static_cast<double>(most) / static_cast<double>(least);
  };
  EXPECT_GT(spread(Lengths::ignored), 1.5);
  EXPECT_LT(spread(Lengths::balanced), 1.2);
}

TEST(Batching, ShardsShareEveryBatch) {
  const auto lengths = some_lengths(43);
  const BatchOptions options{.batch = 8, .seed = 1, .lengths = Lengths::similar};
  const auto whole = batches(BatchPlan(43, options, lengths), 2);
  std::vector<std::vector<std::vector<std::int64_t>>> shards;
  for (std::int64_t s = 0; s < 3; ++s) {
    BatchOptions mine = options;
    mine.shards = 3;
    mine.shard = s;
    shards.push_back(batches(BatchPlan(43, mine, lengths), 2));
  }
  for (std::size_t b = 0; b < whole.size(); ++b) {
    for (std::size_t i = 0; i < whole[b].size(); ++i) EXPECT_EQ(shards[i % 3][b].at(i / 3), whole[b][i]);
  }
}

TEST(Batching, PositionsAndSteps) {
  const BatchPlan plan(10, {.batch = 4});
  Position position;
  for (std::int64_t step = 0; step < 10; ++step) {
    EXPECT_EQ(plan.step(position), step);
    EXPECT_EQ(plan.position(step), position);
    position = plan.next(position);
  }
  EXPECT_EQ(plan.position(3), (Position{1, 0}));
}

TEST(Batching, Refusals) {
  const auto refusal = [](std::int64_t n, BatchOptions options) { return message_of([&] { BatchPlan(n, options); }); };
  expect_contains(refusal(0, {}), "examples: out of range: expected at least one, got 0");
  expect_contains(refusal(5, {.batch = 0}), "batch: out of range");
  expect_contains(refusal(5, {.pool = 0}), "pool");
  expect_contains(refusal(5, {.shards = 2, .shard = 2}), "shard: out of range");
  expect_contains(refusal(5, {.batch = 6, .drop_last = true}), "at least one full batch");
}

TEST(BatchPlan, GroupsStayTogetherInARandomOrder) {
  std::vector<std::int64_t> groups;
  for (std::int64_t i = 0; i < 60; ++i) groups.push_back(i % 12);
  const BatchPlan plan(60, {.batch = 10, .seed = 4}, {}, groups);
  std::vector<std::vector<std::int64_t>> orders;
  for (const std::int64_t epoch : {0, 1}) {
    std::vector<std::int64_t> seen, met;
    for (const auto& batch : batches(plan, epoch)) {
      std::set<std::int64_t> here;
      for (const std::int64_t example : batch) {
        seen.push_back(example);
        here.insert(groups[static_cast<std::size_t>(example)]);
        if (met.empty() || met.back() != groups[static_cast<std::size_t>(example)])
          met.push_back(groups[static_cast<std::size_t>(example)]);
      }
      EXPECT_EQ(here.size(), 2u) << "groups of five fill batches of ten";
    }
    EXPECT_EQ(met.size(), 12u) << "a group is met once";
    orders.push_back(met);
    std::sort(seen.begin(), seen.end());
    for (std::int64_t i = 0; i < 60; ++i) EXPECT_EQ(seen[static_cast<std::size_t>(i)], i);
  }
  EXPECT_NE(orders[0], orders[1]);
}

}  // namespace
}  // namespace mmtune::data::test
