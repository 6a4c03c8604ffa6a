#pragma once
// The learning rate over time, as a factor on the recipe's peak rate.

#include <cstdint>

#include "train/recipe.h"

namespace mmtune::train {

class Schedule {
 public:
  /// `total_steps` and `steps_per_epoch` in optimiser steps.
  Schedule(const TrainSection& section, std::int64_t total_steps, std::int64_t steps_per_epoch);
  /// The factor for step 0, 1, …: (step + 1) / (warmup + 1) during the warm-up, then the chosen curve over the steps that are left.
  double operator()(std::int64_t step) const;
  std::int64_t warmup_steps() const { return warmup_; }

 private:
  ScheduleKind kind_;
  std::int64_t total_, warmup_;
  double floor_, gamma_, drop_every_;
};

}  // namespace mmtune::train
