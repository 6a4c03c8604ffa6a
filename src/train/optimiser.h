#pragma once
// Optimisers over the flat buffers of nn::Parameters: one fused pass a group, whatever the number of tensors.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "nn/parameters.h"
#include "train/recipe.h"

namespace mmtune::train {

/// Rate factor and decay of one span of the flat buffers.
struct OptimiserGroup {
  std::int64_t begin = 0, end = 0;
  double lr_scale = 1.0;
  double weight_decay = 0.0;
};

/// Chooses the groups of the recipe (first matching pattern; tensors of one dimension get no decay unless their pattern says one), flattens
/// `parameters` accordingly and returns the spans. Throws UsageError for a pattern that matches nothing.
std::vector<OptimiserGroup> flatten_into_groups(nn::Parameters& parameters, const TrainSection& section);

/// Norm of the whole gradient; scales it down to `limit` where it is longer (0: never). Not finite: the gradient is left as it is.
double clip_gradient(at::Tensor& gradient, double limit);

class Optimiser {
 public:
  virtual ~Optimiser() = default;
  Optimiser() = default;
  Optimiser(const Optimiser&) = delete;
  Optimiser& operator=(const Optimiser&) = delete;
  /// Applies the flat gradient with the learning rate `lr`; `step` counts from 0.
  virtual void step(std::int64_t step, double lr) = 0;
  /// What a checkpoint must keep besides the values: names and buffers of the size of the values.
  virtual std::vector<nn::NamedTensor> state() = 0;
};

/// AdamW (Loshchilov and Hutter, arXiv 1711.05101) or SGD with momentum.
std::unique_ptr<Optimiser> make_optimiser(const TrainSection& section, nn::Parameters& parameters, std::vector<OptimiserGroup> groups);

}  // namespace mmtune::train
