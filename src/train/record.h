#pragma once
// run.json: what was trained from what, on which machine, how fast and how well.

#include <cstdint>
#include <vector>

#include "core/json.h"
#include "train/session.h"
#include "train/state.h"

namespace mmtune::train {

/// Times of the steps of this session.
class StepTimes {
 public:
  /// `seconds` of the whole step, `waited` of them for data, and the operations that it needed.
  void add(double seconds, double waited, const PassMacs& macs);
  /// The figures for the record; empty without steps. `rows` and `width` say which matrix product the operation bound is measured with.
  Json summary(std::int64_t rows, std::int64_t width, at::Device device) const;

 private:
  std::vector<double> seconds_, waited_, macs_;
};

/// What is known before the first step.
Json new_record(const Recipe& recipe, const Training& training, std::int64_t total_steps);
/// What is known at the end of a session.
void add_progress(Json& record, const TrainState& state, const Training& training, const StepTimes& times);
/// What every expert carries with it.
Json expert_metadata(Recipe& recipe, const Training& training, const TrainState& state);

}  // namespace mmtune::train
