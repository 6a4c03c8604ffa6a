#pragma once
// Products with frozen matrices, in one of three arithmetics. float32. Split in two (split_kernel.h): of about 16 bits, with a relative
// error of a product of matrices of about 4e-6, against 4e-7 of float32; two to three times as fast where the processor has the matrix
// units. Rounded: factors and products are bfloat16 numbers, which are added up in float32; an error of about 3e-3, and nearly twice as
// fast where the processor multiplies them at all.

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "nn/context.h"

namespace mmtune::nn {

enum class Arithmetic { float32, split, rounded };

/// How the product of x [M, K] and a matrix with N columns is made: as `precision` allows where x is float32 and on a processor that has
/// the instructions, and the product large enough to pay for packing or rounding.
Arithmetic arithmetic_of(MatmulPrecision precision, const at::Tensor& x, std::int64_t columns);

/// Whether this processor has instructions for products of bfloat16 numbers (AVX512-BF16; every one with AMX has them too).
bool multiplies_bfloat16();

/// x [M, K], float32, as the left factor of several products; where these are split or rounded it is packed once. Weights may lie in half
/// precision: they are float32 only during the product.
class LeftFactor {
 public:
  LeftFactor(const at::Tensor& x, MatmulPrecision precision) : x_(x), precision_(precision) {}

  /// x Wᵀ + bias → [M, N], of a weight [N, K] and a bias [N] or undefined.
  at::Tensor times_transposed(const at::Tensor& weight, const at::Tensor& bias);
  /// sum += x Wᵀ.
  void add_transposed(const at::Tensor& weight, at::Tensor& sum);
  /// sum += x W, of a weight [K, N]; an undefined sum becomes the product.
  void add_product(const at::Tensor& weight, at::Tensor& sum);

 private:
  const at::Tensor& packed();
  at::Tensor rounded_product(const at::Tensor& right);
  at::Tensor x_;
  MatmulPrecision precision_;
  at::Tensor packed_;   ///< blocks of split_kernel.h, once they were needed
  at::Tensor rounded_;  ///< x as bfloat16, with rows of zeros at its end
};

/// The weight as float32.
at::Tensor as_float(const at::Tensor& weight);

}  // namespace mmtune::nn
