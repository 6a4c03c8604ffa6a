#pragma once
// What a source model makes of training pictures without a prompt: the constant side of feature consistency, computed once.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "methods/prompted_model.h"

namespace mmtune::methods {

struct CleanFeaturesOptions {
  experts::PromptShape shape;
  bool flips = true;           ///< pictures come flipped too
  bool crops = true;           ///< squares of other pictures are drawn: only square ones can be kept
  std::int64_t batch = 16;     ///< fixed, so that a resumed training computes the same bits
  std::int64_t max_bytes = 0;  ///< for all features together
  int workers = 1;
  nn::MatmulPrecision matmul_precision = nn::MatmulPrecision::high;
  std::function<bool()> stop;
};

class CleanFeatures {
 public:
  /// Encodes every picture in file order; nothing where they would take more than max_bytes. `stopped` becomes true where `stop` ended it.
  static std::optional<CleanFeatures> make(const PromptedModel& model, const Questions& questions, const data::Dataset& dataset,
                                           const CleanFeaturesOptions& options, bool& stopped);

  /// backbones::VisualTokens::features of these examples; nothing where one of them is not kept.
  std::optional<std::vector<at::Tensor>> rows(std::span<const std::int64_t> examples, std::span<const std::uint8_t> flipped) const;
  std::int64_t bytes() const;

 private:
  std::vector<at::Tensor> features_;  ///< [slots, N_i, D_i]
  std::vector<bool> kept_;            ///< one an example
  std::int64_t variants_ = 1;
};

}  // namespace mmtune::methods
