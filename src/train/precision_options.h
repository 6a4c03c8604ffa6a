#pragma once
// What recipes and command lines call the storage of frozen weights and the arithmetic of products with them.

#include <string>
#include <vector>

#include "core/options.h"
#include "nn/context.h"
#include "nn/weights.h"

namespace mmtune::train {

std::vector<Choice<nn::Storage>> weight_storages();
std::vector<Choice<nn::MatmulPrecision>> matmul_precisions();

/// The names alone.
template <class Enum>
std::vector<std::string> names_of(const std::vector<Choice<Enum>>& choices) {
  std::vector<std::string> names;
  for (const Choice<Enum>& choice : choices) names.emplace_back(choice.name);
  return names;
}

}  // namespace mmtune::train
