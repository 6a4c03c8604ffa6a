#include "nn/tensor_heap.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <memory>
#include <new>

#include "core/error.h"

namespace mmtune::nn {

namespace {

constexpr std::size_t page = 4096;
constexpr std::size_t huge_page = std::size_t{2} << 20;
constexpr std::size_t smallest_block = std::size_t{256} << 10;

constexpr std::size_t round_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

TensorHeap::TensorHeap(std::size_t limit) : reserved_size_(round_up(limit, huge_page) + huge_page) {
  void* const mapped = ::mmap(nullptr, reserved_size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  reserved_ = static_cast<char*>(mapped);
  const auto address = reinterpret_cast<std::uintptr_t>(reserved_);
  begin_ = end_ = reserved_ + (round_up(address, huge_page) - address);
  limit_ = begin_ + round_up(limit, huge_page);
#ifdef MADV_HUGEPAGE
  // The matrix products read huge pages through far fewer address translations.
  ::madvise(begin_, static_cast<std::size_t>(limit_ - begin_), MADV_HUGEPAGE);
#endif
}

TensorHeap::~TensorHeap() {
  ::munmap(reserved_, reserved_size_);
}

TensorHeap::Blocks::iterator TensorHeap::join_neighbours(Blocks::iterator block) {
  const auto joins = [&](Blocks::iterator other) {
    return other != blocks_.end() && other->second.free && other->second.empty == block->second.empty;
  };
  if (const auto next = std::next(block); joins(next)) {
    free_.erase({next->second.size, next->first});
    block->second.size += next->second.size;
    blocks_.erase(next);
  }
  if (const auto previous = block == blocks_.begin() ? blocks_.end() : std::prev(block); joins(previous)) {
    free_.erase({previous->second.size, previous->first});
    previous->second.size += block->second.size;
    blocks_.erase(block);
    block = previous;
  }
  free_.emplace(block->second.size, block->first);
  return block;
}

void TensorHeap::release_free_blocks(std::size_t resident_limit) {
  while (usage_.resident > resident_limit) {
    const auto largest =
        std::find_if(free_.rbegin(), free_.rend(), [&](const auto& candidate) { return !blocks_.at(candidate.second).empty; });
    if (largest == free_.rend()) return;
    const auto block = blocks_.find(largest->second);
    ::madvise(block->first, block->second.size, MADV_DONTNEED);
    usage_.resident -= block->second.size;
    free_.erase({block->second.size, block->first});
    block->second.empty = true;
    join_neighbours(block);
  }
}

TensorHeap::Blocks::iterator TensorHeap::grow(std::size_t size) {
  const auto last = blocks_.empty() ? blocks_.end() : std::prev(blocks_.end());
  const bool extends = last != blocks_.end() && last->second.free && last->second.empty;
  const std::size_t missing = round_up(size - (extends ? last->second.size : 0), huge_page);
  if (missing > static_cast<std::size_t>(limit_ - end_) || ::mprotect(end_, missing, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
  const auto added = blocks_.emplace_hint(blocks_.end(), end_, Block{.size = missing, .free = true, .empty = true});
  end_ += missing;
  return join_neighbours(added);
}

void* TensorHeap::take(std::size_t bytes) {
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  const std::size_t size = round_up(bytes, page);
  const std::lock_guard lock(mutex_);
  const auto fitting = free_.lower_bound({size, nullptr});
  const auto block = fitting != free_.end() ? blocks_.find(fitting->second) : grow(size);
  free_.erase({block->second.size, block->first});
  const bool was_empty = block->second.empty;
  if (block->second.size > size) {
    const auto rest = blocks_.emplace_hint(std::next(block), block->first + size,
                                           Block{.size = block->second.size - size, .free = true, .empty = was_empty});
    free_.emplace(rest->second.size, rest->first);
  }
  block->second = {.size = size, .free = false, .empty = false};
  usage_.live += size;
  usage_.peak = std::max(usage_.peak, usage_.live);
  if (was_empty) {
    usage_.resident += size;
    // With half of that, steps of MoPE with 64 experts gave back and cleared a gigabyte each.
    release_free_blocks(usage_.peak + usage_.peak / 8);
  }
  return block->first;
}

bool TensorHeap::give_back(void* given) noexcept {
  const std::lock_guard lock(mutex_);
  const auto block = blocks_.find(static_cast<char*>(given));
  if (block == blocks_.end() || block->second.free) return false;
  usage_.live -= block->second.size;
  block->second.free = true;
  join_neighbours(block);
  return true;
}

TensorHeap::Usage TensorHeap::usage() const {
  const std::lock_guard lock(mutex_);
  return usage_;
}

namespace {

/// Addresses cost nothing, and blocks may leave holes; but where a process is given few of them, others need their part.
std::size_t address_limit() {
  const auto memory = static_cast<std::size_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  rlimit allowed{};
  if (::getrlimit(RLIMIT_AS, &allowed) == 0 && allowed.rlim_cur != RLIM_INFINITY)
    return std::min<std::size_t>(2 * memory, allowed.rlim_cur / 2);
  return 2 * memory;
}

class HeapAllocator final : public c10::Allocator {
 public:
  explicit HeapAllocator(std::size_t limit) : heap_(limit) {}
  c10::DataPtr allocate(std::size_t bytes) override {
    if (bytes < smallest_block) return small().allocate(bytes);
    void* const block = heap_.take(bytes);
    return {block, block, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  bool is_simple_data_ptr(const c10::DataPtr& data) const override { return data.get() == data.get_context(); }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

  /// Never destroyed: tensors may outlive every other object.
  static HeapAllocator& instance() {
    static HeapAllocator* const allocator = std::make_unique<HeapAllocator>(address_limit()).release();
    return *allocator;
  }

 private:
  static c10::Allocator& small() { return *c10::GetDefaultCPUAllocator(); }
  static void release(void* block) {
    if (block != nullptr && !instance().heap_.give_back(block)) small().raw_deleter()(block);
  }
  TensorHeap heap_;
};

}  // namespace

void use_tensor_heap() {
  c10::SetCPUAllocator(&HeapAllocator::instance(), 1);
}

}  // namespace mmtune::nn
