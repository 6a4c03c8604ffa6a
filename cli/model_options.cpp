#include "model_options.h"

#include "train/precision_options.h"

namespace mmtune::cli {

void ModelOptions::declare(Arguments& arguments) {
  arguments.option("--weights", &weights,
                   {.help = "how the frozen weights lie in memory; the recipe's backbone.weights",
                    .value = "TYPE",
                    .choices = train::names_of(train::weight_storages())});
  arguments.option("--matmul-precision", &matmul_precision,
                   {.help = "how products with frozen weights are computed; the recipe's backbone.matmul_precision",
                    .value = "HOW",
                    .choices = train::names_of(train::matmul_precisions())});
  arguments.option("--device", &device,
                   {.help = "where the model computes: cpu, cuda or cuda:N; the recipe's train.device", .value = "DEVICE"});
}

std::vector<std::string> ModelOptions::applied_to(std::vector<std::string> assignments) const {
  if (!weights.empty()) assignments.push_back("backbone.weights=" + weights);
  if (!matmul_precision.empty()) assignments.push_back("backbone.matmul_precision=" + matmul_precision);
  if (!device.empty()) assignments.push_back("train.device=" + device);
  return assignments;
}

}  // namespace mmtune::cli
