// attention_kernel.h with vectors of 32 bytes.

#define MMTUNE_VECTOR_BYTES 32
#include "nn/attention_kernel_body.h"
#include "nn/attention_kernel_widths.h"

namespace mmtune::nn {

const AttentionKernel attention_kernel_avx2{"avx2", scratch_floats, forward, backward};

}  // namespace mmtune::nn
