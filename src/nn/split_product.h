#pragma once
// Products with frozen matrices, in float32 or with the arithmetic of split_kernel.h: of about 16 bits (relative error of a product of
// matrices about 4e-6, against 4e-7 of float32), two to three times as fast where the processor has the units.

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "nn/context.h"

namespace mmtune::nn {

/// Whether a product of x [M, K] and a matrix with N columns is split: `precision` allows it, x is float32 and on a processor that has the
/// units, and the product is large enough to pay for packing.
bool splits_products(MatmulPrecision precision, const at::Tensor& x, std::int64_t columns);

/// x [M, K], float32, as the left factor of several products; where these are split it is packed once. Weights may lie in half precision:
/// they are float32 only during the product.
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
  at::Tensor x_;
  MatmulPrecision precision_;
  at::Tensor packed_;  ///< blocks of split_kernel.h, once they were needed
};

/// The weight as float32.
at::Tensor as_float(const at::Tensor& weight);

}  // namespace mmtune::nn
