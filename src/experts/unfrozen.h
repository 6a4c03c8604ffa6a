#pragma once
// Tensors of the backbone itself that an expert trains: copies in their places, which are put back when it is disabled.

#include <string>
#include <vector>

#include "experts/expert.h"

namespace mmtune::experts {

class UnfrozenTensors {
 public:
  /// Copies of the slots' tensors. `names` are those under which they are saved, one a slot. Not in their places yet.
  UnfrozenTensors(const std::vector<nn::TensorSlot>& slots, const std::vector<std::string>& names);

  void put(bool enabled);
  /// What the coming pass needs in the places, where they are the trained ones': nn::Context::examples.
  void put_for(const nn::Context& context);
  /// Whether every slot's layer can give squared gradients.
  bool squares_gradients() const;
  const std::vector<nn::NamedTensor>& tensors() const { return trained_; }

 private:
  struct Place {
    at::Tensor* tensor;
    at::Tensor frozen;
    nn::SlotSquares squares;
  };
  std::vector<nn::NamedTensor> trained_;
  std::vector<Place> places_;
};

}  // namespace mmtune::experts
