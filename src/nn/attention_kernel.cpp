#include "nn/attention_kernel.h"

#include "nn/attention_kernel_widths.h"

namespace mmtune::nn {

std::span<const AttentionKernel> attention_kernels() {
#if defined(__x86_64__)
  static const AttentionKernel all[] = {attention_kernel_avx512, attention_kernel_avx2};
  return __builtin_cpu_supports("avx512f") ? std::span(all) : std::span(all).subspan(1);
#else
  static const AttentionKernel all[] = {attention_kernel_avx2};
  return all;
#endif
}

}  // namespace mmtune::nn
