#include "data/prefetch.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <stdexcept>

#include "unit/data/data_test_support.h"

namespace mmtune::data::test {
namespace {

TEST(Prefetch, KeepsTheOrder) {
  for (const int workers : {0, 1, 3, 8}) {
    for (const std::int64_t capacity : {1, 2, 5, 100}) {
      Prefetcher<std::int64_t> items(
          10, 60, [](std::int64_t i) { return i * i; }, workers, capacity);
      for (std::int64_t i = 10; i < 60; ++i) {
        const auto item = items.next();
        ASSERT_TRUE(item);
        EXPECT_EQ(*item, i * i);
      }
      EXPECT_FALSE(items.next());
      EXPECT_FALSE(items.next());
    }
  }
}

TEST(Prefetch, EmptyRanges) {
  for (const int workers : {0, 2}) {
    Prefetcher<int> none(
        5, 5, [](std::int64_t) { return 1; }, workers, 3);
    EXPECT_FALSE(none.next());
    Prefetcher<int> reversed(
        5, 4, [](std::int64_t) { return 1; }, workers, 3);
    EXPECT_FALSE(reversed.next());
  }
}

TEST(Prefetch, CarriesExceptionsWithTheirItem) {
  for (const int workers : {0, 3}) {
    Prefetcher<std::int64_t> items(
        0, 30,
        [](std::int64_t i) {
          if (i % 5 == 2) throw Error({.what = "item " + std::to_string(i)});
          return i;
        },
        workers, 4);
    for (std::int64_t i = 0; i < 30; ++i) {
      if (i % 5 == 2) {
        EXPECT_EQ(message_of([&] { items.next(); }), "item " + std::to_string(i));
      } else {
        EXPECT_EQ(items.next().value(), i);
      }
    }
    EXPECT_FALSE(items.next());
  }
}

/// Counts itself.
class Counted {
 public:
  explicit Counted(std::atomic<int>* alive, std::atomic<int>* most) : alive_(alive) {
    const int now = ++*alive_;
    int seen = *most;
    while (now > seen && !most->compare_exchange_weak(seen, now)) {
    }
  }
  Counted(Counted&& other) noexcept : alive_(std::exchange(other.alive_, nullptr)) {}
  Counted& operator=(Counted&& other) noexcept {
    if (alive_ != nullptr) --*alive_;
    alive_ = std::exchange(other.alive_, nullptr);
    return *this;
  }
  ~Counted() {
    if (alive_ != nullptr) --*alive_;
  }

 private:
  std::atomic<int>* alive_;
};

TEST(Prefetch, HoldsNoMoreThanItsCapacity) {
  std::atomic<int> alive = 0;
  std::atomic<int> most = 0;
  {
    Prefetcher<Counted> items(
        0, 500, [&](std::int64_t) { return Counted(&alive, &most); }, 6, 4);
    for (int i = 0; i < 200; ++i) {
      const auto item = items.next();  // the one besides the capacity
      if (i % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
  EXPECT_LE(most, 5);
  EXPECT_EQ(alive, 0) << "leaving early leaks nothing";
}

TEST(Prefetch, ADeadConsumerStopsTheWorkers) {
  std::atomic<std::int64_t> done = 0;
  for (int round = 0; round < 200; ++round) {
    Prefetcher<std::unique_ptr<std::int64_t>> items(
        0, 1'000'000'000,
        [&](std::int64_t i) {
          ++done;
          return std::make_unique<std::int64_t>(i);
        },
        1 + round % 4, 1 + round % 7);
    for (int i = 0; i < round % 5; ++i) EXPECT_EQ(*items.next().value(), i);
  }
  EXPECT_LT(done, 200 * 16);
}

TEST(Prefetch, ManyThreadsManyItems) {
  // Under the sanitizers this is where a race would show.
  std::vector<int> seen(20000, 0);
  Prefetcher<std::size_t> items(
      0, 20000,
      [&](std::int64_t i) {
        ++seen[static_cast<std::size_t>(i)];
        return static_cast<std::size_t>(i);
      },
      8, 16);
  std::size_t expected = 0;
  while (const auto item = items.next()) EXPECT_EQ(*item, expected++);
  EXPECT_EQ(expected, 20000u);
  for (const int count : seen) EXPECT_EQ(count, 1);
}

TEST(Prefetch, Refusals) {
  const auto make = [](int workers, std::int64_t capacity) {
    return message_of([&] {
      Prefetcher<int>(
          0, 1, [](std::int64_t) { return 1; }, workers, capacity);
    });
  };
  expect_contains(make(-1, 1), "workers: out of range: expected 0 or more, got -1");
  expect_contains(make(1, 0), "capacity: out of range");
}

}  // namespace
}  // namespace mmtune::data::test
