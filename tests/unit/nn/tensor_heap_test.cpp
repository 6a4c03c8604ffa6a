#include "nn/tensor_heap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

namespace mmtune::nn {
namespace {

constexpr std::size_t mib = std::size_t{1} << 20;

TEST(TensorHeap, WhatWasFreedServesTheNext) {
  TensorHeap heap(std::size_t{1} << 32);
  void* const first = heap.take(5 * mib + 1);
  std::memset(first, 7, 5 * mib + 1);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first) % (2 * mib), 0u);
  void* const second = heap.take(mib);
  EXPECT_TRUE(heap.give_back(first));
  EXPECT_FALSE(heap.give_back(first));
  EXPECT_EQ(heap.take(3 * mib), first) << "a part of it will do";
  EXPECT_EQ(heap.take(2 * mib), static_cast<char*>(first) + 3 * mib);
  EXPECT_NE(heap.take(5 * mib), first);
  EXPECT_TRUE(heap.give_back(second));
}

TEST(TensorHeap, FreeNeighboursBecomeOne) {
  TensorHeap heap(std::size_t{1} << 32);
  std::vector<char*> blocks;
  for (int i = 0; i < 5; ++i) blocks.push_back(static_cast<char*>(heap.take(mib)));
  for (const std::size_t i : {1, 3, 2}) EXPECT_TRUE(heap.give_back(blocks[i]));
  EXPECT_EQ(heap.take(3 * mib), blocks[1]);
}

TEST(TensorHeap, ForeignMemoryIsNotTaken) {
  TensorHeap heap(std::size_t{1} << 32);
  int here = 0;
  EXPECT_FALSE(heap.give_back(&here));
  EXPECT_FALSE(heap.give_back(nullptr));
}

TEST(TensorHeap, HoldsASixteenthMoreThanWasInUseAtMost) {
  TensorHeap heap(std::size_t{1} << 32);
  std::mt19937 random(1);
  std::vector<std::pair<unsigned char*, std::size_t>> live;
  for (int i = 0; i < 4000; ++i) {
    // Ever larger blocks, which no earlier hole has room for.
    if (!live.empty() && random() % 2 == 0) {
      std::swap(live[random() % live.size()], live.back());
      const auto [block, bytes] = live.back();
      ASSERT_EQ(block[0], bytes % 251) << "another block was written over this one";
      ASSERT_EQ(block[bytes - 1], bytes % 251);
      ASSERT_TRUE(heap.give_back(block));
      live.pop_back();
    } else {
      const std::size_t bytes = mib / 4 + static_cast<std::size_t>(i) * 512 + random() % mib;
      auto* const block = static_cast<unsigned char*>(heap.take(bytes));
      block[0] = block[bytes - 1] = static_cast<unsigned char>(bytes % 251);
      live.emplace_back(block, bytes);
    }
    const TensorHeap::Usage before = heap.usage();
    ASSERT_LE(before.resident, before.peak + before.peak / 8);
    ASSERT_LE(before.live, before.resident);
  }
  for (const auto& [block, bytes] : live) EXPECT_TRUE(heap.give_back(block));
  EXPECT_EQ(heap.usage().live, 0u);
}

TEST(TensorHeap, AStepThatRepeatsMapsNothingNew) {
  TensorHeap heap(std::size_t{1} << 32);
  std::vector<void*> first, second;
  for (std::vector<void*>* step : {&first, &second}) {
    for (std::size_t size : {3, 9, 3, 1}) step->push_back(heap.take(size * mib));
    for (void* block : *step) heap.give_back(block);
  }
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  EXPECT_EQ(first, second);
}

TEST(TensorHeap, AnImpossibleSizeIsRefused) {
  TensorHeap heap(std::size_t{1} << 32);
  EXPECT_THROW(heap.take(SIZE_MAX - 5), std::bad_alloc);
  EXPECT_THROW(heap.take(std::size_t{1} << 60), std::bad_alloc);
  EXPECT_THROW(heap.take((std::size_t{1} << 32) + 1), std::bad_alloc);
  EXPECT_EQ(heap.usage().live, 0u);
}

TEST(TensorHeap, ThreadsShareIt) {
  TensorHeap heap(std::size_t{1} << 32);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&heap, t] {
      for (int i = 0; i < 200; ++i) {
        char* const block = static_cast<char*>(heap.take(mib));
        block[0] = static_cast<char>(t);
        EXPECT_EQ(block[0], static_cast<char>(t));
        EXPECT_TRUE(heap.give_back(block));
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(heap.usage().live, 0u);
}

}  // namespace
}  // namespace mmtune::nn
