#include "nn/block_cache.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>

#include <algorithm>
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

void* map_pages(std::size_t size) {
  const std::size_t slack = size >= huge_page ? huge_page : 0;
  void* const mapped = ::mmap(nullptr, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  if (slack == 0) return mapped;
  // Begins where a huge page does: the matrix products read such blocks through far fewer address translations.
  char* const begin = static_cast<char*>(mapped);
  const std::size_t head = round_up(reinterpret_cast<std::uintptr_t>(begin), huge_page) - reinterpret_cast<std::uintptr_t>(begin);
  if (head > 0) ::munmap(begin, head);
  if (head < slack) ::munmap(begin + head + size, slack - head);
#ifdef MADV_HUGEPAGE
  ::madvise(begin + head, size, MADV_HUGEPAGE);
#endif
  return begin + head;
}

}  // namespace

BlockCache::~BlockCache() {
  for (const auto& [size, kept] : kept_) ::munmap(kept.block, size);
}

void BlockCache::drop_oldest() {
  const auto oldest =
      std::min_element(kept_.begin(), kept_.end(), [](const auto& a, const auto& b) { return a.second.since < b.second.since; });
  ::munmap(oldest->second.block, oldest->first);
  usage_.kept -= oldest->first;
  kept_.erase(oldest);
}

void* BlockCache::take(std::size_t bytes) {
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  const std::size_t wanted = round_up(bytes, page);
  const std::lock_guard lock(mutex_);
  std::size_t size = wanted;
  void* block = nullptr;
  if (const auto fitting = kept_.lower_bound(wanted); fitting != kept_.end() && fitting->first <= wanted + wanted / 2) {
    size = fitting->first;
    block = fitting->second.block;
    usage_.kept -= size;
    kept_.erase(fitting);
  } else {
    const std::size_t limit = std::max(usage_.peak, usage_.live + wanted);
    while (!kept_.empty() && usage_.live + usage_.kept + wanted > limit) drop_oldest();
    block = map_pages(wanted);
  }
  live_.emplace(block, size);
  usage_.live += size;
  usage_.peak = std::max(usage_.peak, usage_.live);
  return block;
}

bool BlockCache::give_back(void* block) noexcept {
  const std::lock_guard lock(mutex_);
  const auto found = live_.find(block);
  if (found == live_.end()) return false;
  const std::size_t size = found->second;
  live_.erase(found);
  usage_.live -= size;
  usage_.kept += size;
  kept_.emplace(size, Kept{block, given_back_++});
  return true;
}

BlockCache::Usage BlockCache::usage() const {
  const std::lock_guard lock(mutex_);
  return usage_;
}

namespace {

class CachingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    if (bytes < smallest_block) return small().allocate(bytes);
    void* const block = cache().take(bytes);
    return {block, block, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  bool is_simple_data_ptr(const c10::DataPtr& data) const override { return data.get() == data.get_context(); }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  static c10::Allocator& small() { return *c10::GetDefaultCPUAllocator(); }
  /// Never destroyed: tensors may outlive every other object.
  static BlockCache& cache() {
    static BlockCache* const instance = std::make_unique<BlockCache>().release();
    return *instance;
  }
  static void release(void* block) {
    if (block != nullptr && !cache().give_back(block)) small().raw_deleter()(block);
  }
};

}  // namespace

void use_block_cache() {
  static CachingAllocator allocator;
  c10::SetCPUAllocator(&allocator, 1);
}

}  // namespace mmtune::nn
