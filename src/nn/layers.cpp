#include "nn/layers.h"

#include <ATen/ATen.h>

#include "core/error.h"

namespace mmtune::nn {

Activation activation_named(const std::string& name, const std::string& where) {
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") return Activation::gelu_tanh;
  if (name == "quick_gelu") return Activation::quick_gelu;
  if (name == "relu") return Activation::relu;
  if (name == "silu" || name == "swish") return Activation::silu;
  if (name == "tanh") return Activation::tanh;
  throw Error({.what = "activation is not supported",
               .where = where,
               .expected = "gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu, silu or tanh",
               .got = "\"" + printable(name) + "\""});
}

at::Tensor activate(const at::Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::gelu:
      return at::gelu(x);
    case Activation::gelu_tanh:
      return at::gelu(x, "tanh");
    case Activation::quick_gelu:
      return x * at::sigmoid(x * 1.702);
    case Activation::relu:
      return at::relu(x);
    case Activation::silu:
      return at::silu(x);
    case Activation::tanh:
      return at::tanh(x);
  }
  MMTUNE_ASSERT(false);
  return x;
}

LayerNorm::LayerNorm(const Weights& weights, std::int64_t width, double epsilon)
    : name_(weights.path()),
      width_(width),
      epsilon_(epsilon),
      weight_(weights.tensor("weight", {width}, Init::ones)),
      bias_(weights.tensor("bias", {width}, Init::zeros)) {}

at::Tensor LayerNorm::operator()(const at::Tensor& x) const {
  if (weight_.dim() == 1 && bias_.dim() == 1) return at::layer_norm(x, {width_}, weight_, bias_, epsilon_);
  // A tensor an example (SlotSquares::spread).
  const std::int64_t examples = (weight_.dim() == 1 ? bias_ : weight_).size(0);
  const at::Tensor normed = at::layer_norm(x, {width_}, {}, {}, epsilon_).view({examples, -1, width_});
  return (normed * weight_ + bias_).view_as(x);
}

void LayerNorm::list(SiteTable& table) {
  table.tensors.push_back({name_ + ".weight", &weight_, SlotSquares::spread});
  table.tensors.push_back({name_ + ".bias", &bias_, SlotSquares::spread});
}

}  // namespace mmtune::nn
