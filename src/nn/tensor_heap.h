#pragma once
// Memory of large tensors. A training step asks for the same sizes again and again: they are cut from one stretch of huge pages that stays
// with the process, so that the system need not clear new pages for every tensor.

#include <cstddef>
#include <map>
#include <mutex>
#include <set>
#include <utility>

namespace mmtune::nn {

/// One stretch of addresses, cut into blocks of whole pages: the smallest free block that is large enough is taken, neighbours that are
/// free become one. The stretch grows where no block is large enough. Its memory never exceeds the most that was in use at any time by
/// more than an eighth: beyond that, the pages of free blocks go back to the system. Safe to use from several threads.
class TensorHeap {
 public:
  struct Usage {
    std::size_t live = 0;      ///< bytes handed out
    std::size_t resident = 0;  ///< bytes of the stretch that may have memory behind them
    std::size_t peak = 0;      ///< the most that `live` ever was
  };

  /// Takes addresses, no memory, for up to `limit` bytes.
  explicit TensorHeap(std::size_t limit);
  TensorHeap(const TensorHeap&) = delete;
  TensorHeap& operator=(const TensorHeap&) = delete;
  ~TensorHeap();

  /// At least `bytes` > 0 bytes at an address that is a multiple of a page; their content is anything. Throws std::bad_alloc.
  void* take(std::size_t bytes);
  /// False where `block` is not one of this heap's.
  bool give_back(void* block) noexcept;
  Usage usage() const;

 private:
  struct Block {
    std::size_t size;
    bool free;
    bool empty;  ///< without memory behind it
  };
  using Blocks = std::map<char*, Block>;
  /// A free block of `size` bytes or more at the end of the stretch.
  Blocks::iterator grow(std::size_t size);
  /// Makes a free block, which is not listed as such yet, one with its free neighbours where these have memory behind them as it has.
  Blocks::iterator join_neighbours(Blocks::iterator block);
  void release_free_blocks(std::size_t resident_limit);

  mutable std::mutex mutex_;
  char* reserved_ = nullptr;  ///< as the system gave it
  std::size_t reserved_size_ = 0;
  char* begin_ = nullptr;
  char* end_ = nullptr;    ///< of what may be used already
  char* limit_ = nullptr;  ///< of the addresses
  Blocks blocks_;          ///< without gaps from begin_ to end_
  std::set<std::pair<std::size_t, char*>> free_;
  Usage usage_;
};

/// From now on LibTorch's CPU tensors of 256 KiB and more live in one TensorHeap; smaller ones stay where they were. Call it once, before
/// the first tensor is made.
void use_tensor_heap();

}  // namespace mmtune::nn
