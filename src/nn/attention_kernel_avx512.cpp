// attention_kernel.h with vectors of 64 bytes.

#define MMTUNE_VECTOR_BYTES 64
#include "nn/attention_kernel_body.h"
#include "nn/attention_kernel_widths.h"

namespace mmtune::nn {

const AttentionKernel attention_kernel_avx512{"avx512", scratch_floats, forward, backward};

}  // namespace mmtune::nn
