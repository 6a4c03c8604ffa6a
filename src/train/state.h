#pragma once
// What resuming needs, in one safetensors file that is either whole or not there.

#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "nn/parameters.h"

namespace mmtune::train {

/// Where a training stands after `step` optimiser steps. Everything else (order of examples, random numbers, learning rate) is a function
/// of the recipe and of these numbers.
struct TrainState {
  std::int64_t step = 0;
  std::int64_t evaluated_step = -1;  ///< last step whose validation is done
  std::int64_t best_step = -1;
  double best_metric = std::numeric_limits<double>::quiet_NaN();
  std::int64_t without_progress = 0;  ///< validations since the best one
  bool stopped_early = false;
  std::int64_t skipped = 0;  ///< examples left out so far because they could not be read
  double seconds = 0;        ///< training time so far, over all sessions
};

/// Writes the flat values and the optimiser's buffers. `identity` tells recipe, data and backbone; a checkpoint of another one is refused.
void save_state(const std::filesystem::path& path, const TrainState& state, const std::string& identity, nn::Parameters& parameters,
                const std::vector<nn::NamedTensor>& optimiser);

/// Fills the buffers. Throws Error naming the file: damaged, another layout of tensors, or another identity. `optimiser` empty: only the
/// values are taken.
TrainState load_state(const std::filesystem::path& path, const std::string& identity, nn::Parameters& parameters,
                      const std::vector<nn::NamedTensor>& optimiser);

}  // namespace mmtune::train
