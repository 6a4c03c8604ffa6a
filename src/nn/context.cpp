#include "nn/context.h"

#include <ATen/ATen.h>

namespace mmtune::nn {

at::Tensor dropout(const at::Tensor& x, double rate, const Context& context) {
  if (!context.training || rate <= 0.0) return x;
  at::Tensor keep = at::empty(x.sizes(), x.options().requires_grad(false));
  keep.bernoulli_(1.0 - rate, context.generator);
  return x * keep.div_(1.0 - rate);
}

}  // namespace mmtune::nn
