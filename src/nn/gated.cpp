#include "nn/gated.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace mmtune::nn {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class Gated : public torch::autograd::Function<Gated> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate, const at::Tensor& values, std::int64_t activation) {
    context->save_for_backward({gate, values});
    context->saved_data["activation"] = activation;
    return activate(gate, static_cast<Activation>(activation)).mul_(values);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &gate = saved[0], &values = saved[1], &dy = gradients[0];
    const auto activation = static_cast<Activation>(context->saved_data["activation"].toInt());
    at::Tensor dvalues = activate(gate, activation).mul_(dy);
    const at::Tensor inner = dy * values;
    at::Tensor dgate;
    if (activation == Activation::silu) {
      dgate = at::silu_backward(inner, gate);
    } else {
      dgate = at::gelu_backward(inner, gate, activation == Activation::gelu_tanh ? "tanh" : "none");
    }
    return {dgate, dvalues, {}};
  }
};

}  // namespace

at::Tensor gated(const at::Tensor& gate, const at::Tensor& values, Activation activation) {
  const bool own = activation == Activation::silu || activation == Activation::gelu || activation == Activation::gelu_tanh;
  if (!own) return activate(gate, activation) * values;
  return Gated::apply(gate, values, static_cast<std::int64_t>(activation));
}

}  // namespace mmtune::nn
