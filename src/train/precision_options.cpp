#include "train/precision_options.h"

namespace mmtune::train {

std::vector<Choice<nn::Storage>> weight_storages() {
  return {{"f32", nn::Storage::f32},
          {"f16", nn::Storage::f16, "half the memory; refused where a weight is over 65504"},
          {"bf16", nn::Storage::bf16, "half the memory, fewer digits, float32's range"}};
}

std::vector<Choice<nn::MatmulPrecision>> matmul_precisions() {
  return {{"highest", nn::MatmulPrecision::highest, "float32"},
          {"high", nn::MatmulPrecision::high,
           "as sums of two bfloat16 numbers (16 bits) on a processor with matrix units for those, else float32"},
          {"medium", nn::MatmulPrecision::medium,
           "rounded to bfloat16 (8 bits), added up in float32, on a processor that multiplies those, else float32"}};
}

}  // namespace mmtune::train
