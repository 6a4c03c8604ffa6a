#pragma once
// What an expert costs: exact parameters and multiply-accumulates, and on request a measured training step against the operations that
// it cannot avoid.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "train/prompt_costs.h"
#include "train/recipe.h"

namespace mmtune::train {

struct CostOptions {
  std::optional<std::int64_t> tokens;   ///< length of a text (128, or as many as the backbone has positions for); pictures have their own
  double seconds = 4.0;                 ///< length of a sound
  std::optional<std::int64_t> patches;  ///< of a picture of any size (those of the size that the positions were learned for)
  std::int64_t batch = 32;              ///< of the measured step
  std::int64_t outputs = 2;             ///< width of the head's output
  std::int64_t measure = 0;             ///< steps to time; 0: nothing is run
  bool inference = false;               ///< time forward passes without gradients instead of training steps
};

/// A training step, or a pass of inference, on random inputs without padding, timed in this process.
struct StepCost {
  double seconds = 0;          ///< median
  double bound_seconds = 0;    ///< the step's operations at the matrix-product rate of this run
  double gemm_flops = 0;       ///< 2 · multiply-accumulates a second
  double fastest_seconds = 0;  ///< what the machine does meanwhile slows a step and never hastens one
  double fastest_gemm_flops = 0;
  std::int64_t peak_bytes = 0;  ///< of the whole process
  std::int64_t steps = 0;
  std::optional<double> extra_seconds;  ///< of inference: what the experts add, from the fastest of as many passes without them
};

struct Cost {
  std::string method;
  std::int64_t text_tokens = 0;  ///< that a text was priced with; 0: no tower reads text
  std::int64_t backbone_parameters = 0;
  std::int64_t expert_parameters = 0;
  std::int64_t head_parameters = 0;
  double forward_macs = 0;       ///< of one example: backbones, without experts and head
  double expert_macs = 0;        ///< added by the experts
  double training_macs = 0;      ///< forward and backward of one example, all together
  std::int64_t state_bytes = 0;  ///< values, gradients and two moments of all trainables
  std::optional<StepCost> step;
  std::optional<PromptComparison> prompts;  ///< of an expert that is or approximates deep prompts, on the main tower
};

/// Prices the recipe as it stands. Opens the backbones; reads no data.
Cost cost_of(const Recipe& recipe, const CostOptions& options);

}  // namespace mmtune::train
