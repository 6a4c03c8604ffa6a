#pragma once
// What an encoder made of a batch's inputs, once for every answer about them.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "nn/layout.h"

namespace mmtune::backbones {

/// Whether `which` is 0, 1, … count - 1.
bool all_in_order(const std::vector<std::int64_t>& which, std::int64_t count);

struct Sequences {
  at::Tensor rows;  ///< [B * T, D]
  nn::Layout layout;
};

/// Sequence which[i] at place i, of sequences that `layout` gives one length; what was given, where that is each of them in order.
Sequences chosen_sequences(const at::Tensor& rows, const nn::Layout& layout, const std::vector<std::int64_t>& which);

}  // namespace mmtune::backbones
