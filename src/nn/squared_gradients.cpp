#include "nn/squared_gradients.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "core/error.h"

namespace mmtune::nn {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// [N, D] → [B, T, D], without the row of zeros that belongs to no example.
at::Tensor by_example(const at::Tensor& rows, std::int64_t examples) {
  const std::int64_t over = rows.size(0) % examples;
  MMTUNE_ASSERT(over <= 1);
  return rows.narrow(0, 0, rows.size(0) - over).reshape({examples, -1, rows.size(1)});
}

at::Tensor squared_sums(const at::Tensor& rows, std::int64_t examples, bool by_row) {
  return by_row ? rows.square().sum(0) : by_example(rows, examples).sum(1).square_().sum(0);
}

class SquaredLinear : public torch::autograd::Function<SquaredLinear> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, at::TensorList bias,
                            std::int64_t examples, bool by_row) {
    context->save_for_backward({weight.requires_grad() ? x : at::Tensor(), weight});
    context->saved_data["examples"] = examples;
    context->saved_data["by_row"] = by_row;
    context->saved_data["has_bias"] = !bias.empty();
    return at::linear(x, weight, bias.empty() ? at::Tensor() : bias[0]);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const std::int64_t examples = context->saved_data["examples"].toInt();
    const bool by_row = context->saved_data["by_row"].toBool();
    const at::Tensor dy = gradients[0].contiguous();
    // x, the weight, the bias where there is one, and two numbers.
    const bool has_bias = context->saved_data["has_bias"].toBool();
    variable_list result(has_bias ? 5 : 4);
    if (context->needs_input_grad(0)) result[0] = dy.mm(saved[1]);
    if (saved[0].defined()) result[1] = squared_products(dy, saved[0], examples, by_row);
    if (has_bias && context->needs_input_grad(2)) result[2] = squared_sums(dy, examples, by_row);
    return result;
  }
};

class Spread : public torch::autograd::Function<Spread> {
 public:
  static at::Tensor forward(AutogradContext*, const at::Tensor& tensor, std::int64_t examples) {
    std::vector<std::int64_t> shape = tensor.sizes().vec();
    shape.insert(shape.begin(), examples);
    return tensor.unsqueeze(0).expand(shape).clone();
  }
  static variable_list backward(AutogradContext*, const variable_list& gradients) { return {gradients[0].square().sum(0), {}}; }
};

class SpreadRows : public torch::autograd::Function<SpreadRows> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& tensor, std::int64_t rows, std::int64_t examples, bool by_row) {
    context->saved_data["examples"] = examples;
    context->saved_data["by_row"] = by_row;
    context->saved_data["shape"] = tensor.sizes().vec();
    return tensor.reshape({1, -1}).expand({rows, tensor.numel()}).clone();
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor squares = squared_sums(gradients[0], context->saved_data["examples"].toInt(), context->saved_data["by_row"].toBool());
    return {squares.view(context->saved_data["shape"].toIntVector()), {}, {}, {}};
  }
};

}  // namespace

at::Tensor squared_products(const at::Tensor& left, const at::Tensor& right, std::int64_t examples, bool by_row) {
  if (by_row || left.size(0) == examples) return left.square().t().mm(right.square());
  // So many examples at once that their gradients stay in a cache that a core has near.
  constexpr std::int64_t values_at_once = std::int64_t{1} << 19;
  const at::Tensor lefts = by_example(left, examples).transpose(1, 2), rights = by_example(right, examples);
  const std::int64_t values = std::max<std::int64_t>(left.size(1) * right.size(1), 1);
  const std::int64_t together = std::clamp<std::int64_t>(values_at_once / values, 1, examples);
  at::Tensor sum = at::zeros({left.size(1), right.size(1)}, left.options());
  for (std::int64_t first = 0; first < examples; first += together) {
    const std::int64_t count = std::min(together, examples - first);
    const at::Tensor gradients = lefts.narrow(0, first, count).bmm(rights.narrow(0, first, count));
    sum.add_(gradients.square_().sum(0));
  }
  return sum;
}

at::Tensor learned_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const Context& context) {
  if (context.examples == 0) return at::linear(x, weight, bias);
  const std::vector<at::Tensor> biases(bias.defined() ? 1 : 0, bias);
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return SquaredLinear::apply(x.reshape({-1, x.size(-1)}), weight, at::TensorList(biases), context.examples, context.by_row).view(shape);
}

at::Tensor learned_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double epsilon, const Context& context) {
  const std::int64_t width = x.size(-1);
  if (context.examples == 0) return at::layer_norm(x, {width}, weight, bias, epsilon);
  const at::Tensor normed = at::layer_norm(x, {width}, {}, {}, epsilon);
  return normed * spread_rows(weight, x.size(0), context) + spread_rows(bias, x.size(0), context);
}

at::Tensor spread(const at::Tensor& tensor, const Context& context) {
  return context.examples > 0 ? Spread::apply(tensor, context.examples) : tensor;
}

at::Tensor spread_rows(const at::Tensor& tensor, std::int64_t rows, const Context& context) {
  return context.examples > 0 ? SpreadRows::apply(tensor, rows, context.examples, context.by_row) : tensor;
}

}  // namespace mmtune::nn
