#pragma once
// How a visual prompt learns: TVP's and EVP's steps of a given length along the gradient, Adam, or VP's SGD with momentum.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "nn/parameters.h"
#include "train/optimiser.h"

namespace mmtune::methods {

/// normalised: δ ← δ − η · M ⊙ g / (‖g‖₂ + 1e-10), g = (1/B) ∂L/∂δ over all of δ, its inside included: the step is shorter than η where
/// much of g lies there. normalised_border: the same with the norm over what is trained, so that every step is η long; not TVP's.
enum class PromptRule { normalised, normalised_border, adam, sgd };

/// cosine_epoch: η (1 + cos(π e / E)) / 2 in epoch e of E (TVP, EVP). cosine_step: η (k + 1) / W in step k of a warm-up of W steps, then
/// η (1 + cos(π (k − W) / (K − W))) / 2 of K (VP). constant: η.
enum class PromptSchedule { cosine_epoch, cosine_step, constant };

struct PromptSteps {
  std::int64_t total = 1;      ///< K
  std::int64_t per_epoch = 1;  ///< K is a multiple, or the last epoch is cut short
  std::int64_t epochs = 1;     ///< E
  std::int64_t warmup = 0;     ///< W, of cosine_step
};
/// Step length in step `step`, counted from 0.
double prompt_rate(PromptSchedule schedule, double rate, const PromptSteps& steps, std::int64_t step);

struct PromptOptimiserOptions {
  PromptRule rule = PromptRule::normalised;
  double momentum = 0.9;      ///< of sgd
  double weight_decay = 0.0;  ///< of adam (decoupled) and sgd (L2)
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
};

class PromptOptimiser {
 public:
  /// `parameters`: the prompt's tensors alone, flattened. `masks`: one a tensor, in the parameters' order; 0 where nothing changes.
  PromptOptimiser(const PromptOptimiserOptions& options, nn::Parameters& parameters, const std::vector<at::Tensor>& masks);
  /// One step with the flat gradient of a loss that is a mean over `batch` examples. Returns ‖g‖₂ over all entries, of the gradient over
  /// the batch size for the normalised rules.
  double step(std::int64_t step, double rate, std::int64_t batch);
  /// What a checkpoint keeps.
  std::vector<nn::NamedTensor> state();

 private:
  PromptOptimiserOptions options_;
  nn::Parameters& parameters_;
  at::Tensor mask_;  ///< [P]
  std::unique_ptr<train::Optimiser> inner_;
};

}  // namespace mmtune::methods
