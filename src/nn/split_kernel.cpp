#include "nn/split_kernel.h"

namespace mmtune::nn {

#ifdef MMTUNE_AMX_KERNEL
const SplitKernel* amx_split_kernel();

const SplitKernel* split_kernel() {
  return amx_split_kernel();
}
#else
const SplitKernel* split_kernel() {
  return nullptr;
}
#endif

}  // namespace mmtune::nn
