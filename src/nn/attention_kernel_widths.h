#pragma once
// The kernels by the width of their vectors.

#include "nn/attention_kernel.h"

namespace mmtune::nn {

extern const AttentionKernel attention_kernel_avx2;    ///< 32 bytes; runs wherever the program does
extern const AttentionKernel attention_kernel_avx512;  ///< 64 bytes; needs AVX-512F

}  // namespace mmtune::nn
