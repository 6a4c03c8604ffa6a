#pragma once
// What the processes of one training exchange in a step: one sum over a flat gradient and a few numbers.

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>

#include "train/communicator.h"
#include "train/nccl.h"

namespace mmtune::train {

class GradientSum {
 public:
  explicit GradientSum(Communicator& all) : all_(all) {}
  /// `gradients` (float32, flat) and `numbers` become their sums over all processes; all call it alike, with as many of both each time. On
  /// GPUs the sum is NCCL's where all processes have it, and goes through host memory otherwise. Throws Error as Communicator::sum does.
  void operator()(const at::Tensor& gradients, std::span<float> numbers);

 private:
  void open(const at::Tensor& gradients, std::size_t numbers);

  Communicator& all_;
  std::unique_ptr<Nccl> nccl_;
  at::Tensor exchange_;  ///< gradients and numbers, where they are summed
};

}  // namespace mmtune::train
