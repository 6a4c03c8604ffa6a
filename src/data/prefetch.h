#pragma once
// Work done ahead of the one who needs it: decoding, tokenising and batching on threads while the model computes.

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"

namespace mmtune::data {

/// Computes work(begin), work(begin + 1), … work(end − 1) on `workers` threads and hands the results out in that order. At most
/// `capacity` results exist at any time, finished or in the making, besides what the consumer has taken. An exception is thrown by the
/// next() whose item it is; the items after it go on. Destroying a prefetcher waits for the items in the making and for nothing else.
/// With workers = 0 each next() does its own work on the calling thread. `work` is called from several threads at once; next() is for
/// one consumer.
template <class T>
class Prefetcher {
 public:
  using Work = std::function<T(std::int64_t)>;

  /// Throws UsageError: workers < 0 or capacity < 1; Error: the system gives no thread.
  Prefetcher(std::int64_t begin, std::int64_t end, Work work, int workers, std::int64_t capacity)
      : work_(std::move(work)), next_(begin), claimed_(begin), end_(std::max(begin, end)) {
    if (workers < 0)
      throw UsageError({.what = "out of range", .where = "workers", .expected = "0 or more", .got = std::to_string(workers)});
    if (capacity < 1)
      throw UsageError({.what = "out of range", .where = "capacity", .expected = "1 or more", .got = std::to_string(capacity)});
    MMTUNE_ASSERT(begin >= 0);
    if (workers == 0) return;
    slots_.resize(static_cast<std::size_t>(std::min(capacity, std::max<std::int64_t>(end_ - begin, 1))));
    const auto threads = std::min<std::size_t>(static_cast<std::size_t>(workers), slots_.size());
    threads_.reserve(threads);
    try {
      for (std::size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { run(); });
    } catch (const std::system_error& error) {
      stop();
      throw Error({.what = "cannot start a thread: " + error.code().message(), .where = "workers", .hint = "use fewer workers"});
    }
  }
  ~Prefetcher() { stop(); }
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  /// The next item, or nothing after the last one.
  std::optional<T> next() {
    if (next_ == end_) return std::nullopt;
    if (threads_.empty()) return work_(next_++);
    std::unique_lock lock(mutex_);
    Slot& slot = slot_of(next_);
    finished_.wait(lock, [&] { return slot.done; });
    Slot taken = std::exchange(slot, Slot{});
    ++next_;
    lock.unlock();
    room_.notify_one();
    if (taken.error) std::rethrow_exception(taken.error);
    return std::move(taken.value);
  }

 private:
  struct Slot {
    std::optional<T> value;
    std::exception_ptr error;
    bool done = false;
  };

  Slot& slot_of(std::int64_t index) { return slots_[static_cast<std::size_t>(index) % slots_.size()]; }

  void run() {
    for (;;) {
      std::unique_lock lock(mutex_);
      room_.wait(lock, [&] { return stopping_ || claimed_ == end_ || claimed_ - next_ < static_cast<std::int64_t>(slots_.size()); });
      if (stopping_ || claimed_ == end_) {
        lock.unlock();
        room_.notify_all();  // one wake-up may have been meant for another worker, which must see the end too
        return;
      }
      const std::int64_t index = claimed_++;
      lock.unlock();
      Slot result;
      try {
        result.value.emplace(work_(index));
      } catch (...) {
        result.error = std::current_exception();
      }
      result.done = true;
      lock.lock();
      slot_of(index) = std::move(result);
      lock.unlock();
      finished_.notify_one();
    }
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    room_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  Work work_;
  std::int64_t next_;     ///< handed out next; written by the consumer only
  std::int64_t claimed_;  ///< given to a worker next
  std::int64_t end_;
  bool stopping_ = false;
  std::vector<Slot> slots_;
  std::mutex mutex_;
  std::condition_variable room_;
  std::condition_variable finished_;
  std::vector<std::thread> threads_;
};

}  // namespace mmtune::data
