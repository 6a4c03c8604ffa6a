#include "nn/parameters.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/error.h"

namespace mmtune::nn {

void Parameters::add(const std::string& name, const at::Tensor& leaf) {
  MMTUNE_ASSERT(!values_.defined());
  MMTUNE_ASSERT(leaf.requires_grad() && leaf.is_leaf() && leaf.scalar_type() == at::kFloat);
  MMTUNE_ASSERT(std::none_of(items_.begin(), items_.end(), [&](const NamedTensor& item) { return item.name == name; }));
  items_.push_back({name, leaf});
}

void Parameters::flatten(const std::function<std::int64_t(const std::string&)>& group_of) {
  MMTUNE_ASSERT(!values_.defined());
  const auto group = [&](const NamedTensor& item) { return group_of ? group_of(item.name) : 0; };
  std::stable_sort(items_.begin(), items_.end(), [&](const auto& a, const auto& b) { return group(a) < group(b); });
  std::int64_t total = 0;
  for (const NamedTensor& item : items_) total += item.tensor.numel();
  const at::TensorOptions kind =
      at::TensorOptions(at::kFloat).device(items_.empty() ? at::Device(at::kCPU) : items_.front().tensor.device());
  values_ = at::empty({total}, kind);
  gradients_ = at::zeros({total}, kind);
  groups_.clear();
  std::int64_t offset = 0;
  for (NamedTensor& item : items_) {
    const auto number = static_cast<std::size_t>(group(item));
    while (groups_.size() <= number) groups_.emplace_back(offset, offset);
    const std::int64_t size = item.tensor.numel();
    at::Tensor view = values_.narrow(0, offset, size).view(item.tensor.sizes());
    view.copy_(item.tensor.detach());
    item.tensor.set_data(view);
    item.tensor.mutable_grad() = gradients_.narrow(0, offset, size).view(item.tensor.sizes());
    offsets_.push_back(offset);
    offset += size;
    groups_.back().second = offset;
  }
}

std::int64_t Parameters::count() const {
  std::int64_t total = 0;
  for (const NamedTensor& item : items_) total += item.tensor.numel();
  return total;
}

}  // namespace mmtune::nn
