#pragma once
// Options that commands which run a recipe's model share; each stands for a key of the recipe.

#include <string>
#include <vector>

#include "arguments.h"

namespace mmtune::cli {

struct ModelOptions {
  std::string weights, matmul_precision, device;

  void declare(Arguments& arguments);
  /// What was given, as changes of the recipe behind those that `assignments` has already.
  std::vector<std::string> applied_to(std::vector<std::string> assignments) const;
};

}  // namespace mmtune::cli
