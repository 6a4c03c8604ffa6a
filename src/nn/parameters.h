#pragma once
// The trainable tensors of a run: leaves with stable names that share one flat value buffer and one flat gradient buffer.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace mmtune::nn {

struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};

class Parameters {
 public:
  /// Registers a leaf (float32, requires_grad) under a unique name. After flatten() nothing may be added.
  void add(const std::string& name, const at::Tensor& leaf);

  /// Moves all values into one buffer, those of group 0 first, and gives every leaf a gradient that is a view of a second buffer.
  /// `group_of` maps a name to 0, 1, …; undefined: one group.
  void flatten(const std::function<std::int64_t(const std::string&)>& group_of = {});

  const std::vector<NamedTensor>& items() const { return items_; }  ///< in buffer order once flattened
  at::Tensor& values() { return values_; }                          ///< [P] float32
  at::Tensor& gradients() { return gradients_; }                    ///< [P] float32
  std::int64_t count() const;                                       ///< P
  /// Begin and end of each group in the buffers.
  const std::vector<std::pair<std::int64_t, std::int64_t>>& groups() const { return groups_; }
  /// Begin of an item in the buffers.
  std::int64_t offset_of(std::size_t item) const { return offsets_[item]; }

 private:
  std::vector<NamedTensor> items_;
  std::vector<std::int64_t> offsets_;
  std::vector<std::pair<std::int64_t, std::int64_t>> groups_;
  at::Tensor values_, gradients_;
};

}  // namespace mmtune::nn
