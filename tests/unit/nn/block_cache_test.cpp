#include "nn/block_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

namespace mmtune::nn {
namespace {

constexpr std::size_t mib = std::size_t{1} << 20;

TEST(BlockCache, TheSameSizeComesBackFromTheSamePlace) {
  BlockCache cache;
  void* const first = cache.take(5 * mib + 1);
  std::memset(first, 7, 5 * mib + 1);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first) % (2 * mib), 0u);
  EXPECT_TRUE(cache.give_back(first));
  EXPECT_FALSE(cache.give_back(first));
  EXPECT_EQ(cache.take(5 * mib), first) << "a little larger than asked for will do";
  EXPECT_NE(cache.take(5 * mib), first);
}

TEST(BlockCache, ForeignMemoryIsNotTaken) {
  BlockCache cache;
  int here = 0;
  EXPECT_FALSE(cache.give_back(&here));
  EXPECT_FALSE(cache.give_back(nullptr));
}

TEST(BlockCache, KeepsNoMoreThanWasInUse) {
  BlockCache cache;
  std::mt19937 random(1);
  std::vector<void*> live;
  for (int i = 0; i < 2000; ++i) {
    if (!live.empty() && random() % 2 == 0) {
      std::swap(live[random() % live.size()], live.back());
      ASSERT_TRUE(cache.give_back(live.back()));
      live.pop_back();
    } else {
      const std::size_t bytes = mib / 4 + random() % (4 * mib);
      live.push_back(cache.take(bytes));
      static_cast<char*>(live.back())[bytes - 1] = 1;
    }
    const BlockCache::Usage usage = cache.usage();
    ASSERT_LE(usage.live + usage.kept, usage.peak);
  }
  for (void* block : live) EXPECT_TRUE(cache.give_back(block));
  EXPECT_EQ(cache.usage().live, 0u);
}

TEST(BlockCache, AStepThatRepeatsMapsNothingNew) {
  BlockCache cache;
  std::vector<void*> first, second;
  for (std::vector<void*>* step : {&first, &second}) {
    for (std::size_t size : {3, 9, 3, 1}) step->push_back(cache.take(size * mib));
    for (void* block : *step) cache.give_back(block);
  }
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  EXPECT_EQ(first, second);
}

TEST(BlockCache, AnImpossibleSizeIsRefused) {
  BlockCache cache;
  EXPECT_THROW(cache.take(SIZE_MAX - 5), std::bad_alloc);
  EXPECT_THROW(cache.take(std::size_t{1} << 60), std::bad_alloc);
  EXPECT_EQ(cache.usage().live, 0u);
}

TEST(BlockCache, ThreadsShareIt) {
  BlockCache cache;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&cache, t] {
      for (int i = 0; i < 200; ++i) {
        char* const block = static_cast<char*>(cache.take(mib));
        block[0] = static_cast<char>(t);
        EXPECT_EQ(block[0], static_cast<char>(t));
        EXPECT_TRUE(cache.give_back(block));
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(cache.usage().live, 0u);
}

}  // namespace
}  // namespace mmtune::nn
