#pragma once
// Memory of large tensors. A training step asks for the same sizes again and again: what was freed is kept for the next tensor of about
// that size, so that the system neither clears new pages each time, nor does a general-purpose heap break into fragments.

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <unordered_map>

namespace mmtune::nn {

/// Blocks of whole pages; a kept block serves a request of two thirds of its size or more. What is in use and what is kept never exceed
/// together the most that was in use at any time, so that the cache costs no memory at the peak. Safe to use from several threads.
class BlockCache {
 public:
  struct Usage {
    std::size_t live = 0;  ///< bytes handed out
    std::size_t kept = 0;  ///< bytes free and kept
    std::size_t peak = 0;  ///< the most that `live` ever was
  };

  BlockCache() = default;
  BlockCache(const BlockCache&) = delete;
  BlockCache& operator=(const BlockCache&) = delete;
  ~BlockCache();

  /// At least `bytes` > 0 bytes at an address that is a multiple of a page; their content is anything. Throws std::bad_alloc.
  void* take(std::size_t bytes);
  /// False where `block` is not one of this cache's.
  bool give_back(void* block) noexcept;
  Usage usage() const;

 private:
  struct Kept {
    void* block;
    std::uint64_t since;  ///< a count that grows with every block given back
  };
  void drop_oldest();

  mutable std::mutex mutex_;
  std::unordered_map<void*, std::size_t> live_;
  std::multimap<std::size_t, Kept> kept_;  ///< by size
  std::uint64_t given_back_ = 0;
  Usage usage_;
};

/// From now on LibTorch's CPU tensors of 256 KiB and more live in one BlockCache; smaller ones stay where they were. Call it once, before
/// the first tensor is made.
void use_block_cache();

}  // namespace mmtune::nn
