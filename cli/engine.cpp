#include <ATen/Parallel.h>

#include "command.h"
#include "nn/tensor_heap.h"

namespace mmtune::cli {

void start_engine(const Session& session) {
  nn::use_tensor_heap();
  // Operators are run one after another; a pool for running several at once would only fight with the workers that decode.
  at::set_num_interop_threads(1);
  if (session.threads > 0) at::set_num_threads(static_cast<int>(session.threads));
}

}  // namespace mmtune::cli
