// Linear maps with a frozen-weight fast path: one autograd node for all maps of an input, which keeps the input only where a low-rank
// term needs it and accumulates one input gradient in place.

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "nn/layers.h"
#include "nn/split_product.h"
#include "nn/squared_gradients.h"

namespace mmtune::nn {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What a group computes beyond its differentiable inputs: the frozen maps, and to which of them each low-rank term belongs.
struct Plan {
  std::vector<at::Tensor> weights;
  std::vector<at::Tensor> biases;
  std::vector<std::int64_t> term_map;
  std::vector<double> term_scale;
  MatmulPrecision precision = MatmulPrecision::highest;
  std::int64_t examples = 0;  ///< as in Context
  bool by_row = false;
};

/// Differentiable inputs: x [N, in], then A_j [r_j, in] and B_j [out, r_j] of every term. The frozen weights are no inputs of the node.
class FrozenGroup : public torch::autograd::Function<FrozenGroup> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& x, at::TensorList factors, const Plan& plan) {
    variable_list outputs;
    outputs.reserve(plan.weights.size());
    LeftFactor left(x, plan.precision);
    for (std::size_t i = 0; i < plan.weights.size(); ++i) outputs.push_back(left.times_transposed(plan.weights[i], plan.biases[i]));
    variable_list saved;
    for (std::size_t j = 0; j < plan.term_map.size(); ++j) {
      const at::Tensor h = x.mm(factors[2 * j].t());
      outputs[static_cast<std::size_t>(plan.term_map[j])].addmm_(h, factors[2 * j + 1].t(), 1.0, plan.term_scale[j]);
      saved.insert(saved.end(), {factors[2 * j], factors[2 * j + 1], h});
    }
    if (!plan.term_map.empty()) saved.push_back(x);
    context->save_for_backward(saved);
    context->saved_data["weights"] = plan.weights;
    context->saved_data["scales"] = plan.term_scale;
    context->saved_data["maps"] = plan.term_map;
    context->saved_data["precision"] = static_cast<std::int64_t>(plan.precision);
    context->saved_data["examples"] = plan.examples;
    context->saved_data["by_row"] = plan.by_row;
    context->set_materialize_grads(false);
    return outputs;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto weights = context->saved_data["weights"].toTensorVector();
    const auto scales = context->saved_data["scales"].toDoubleVector();
    const auto maps = context->saved_data["maps"].toIntVector();
    const auto precision = static_cast<MatmulPrecision>(context->saved_data["precision"].toInt());
    const std::int64_t examples = context->saved_data["examples"].toInt();
    const bool by_row = context->saved_data["by_row"].toBool();
    const bool need_input = context->needs_input_grad(0);
    at::Tensor dx;
    if (need_input)
      for (std::size_t i = 0; i < weights.size(); ++i)
        if (gradients[i].defined()) LeftFactor(gradients[i], precision).add_product(weights[i], dx);
    variable_list result(2 + 2 * scales.size());  // x, the factors, and the plan, which has no gradient
    for (std::size_t j = 0; j < scales.size(); ++j) {
      const at::Tensor& dy = gradients[static_cast<std::size_t>(maps[j])];
      if (!dy.defined()) continue;
      const at::Tensor &a = saved[3 * j], &b = saved[3 * j + 1], &h = saved[3 * j + 2], &x = saved.back();
      const at::Tensor g = dy.mm(b).mul_(scales[j]);
      if (examples > 0) {
        result[1 + 2 * j] = squared_products(g, x, examples, by_row);
        result[2 + 2 * j] = squared_products(dy, h, examples, by_row).mul_(scales[j] * scales[j]);
      } else {
        result[1 + 2 * j] = g.t().mm(x);
        result[2 + 2 * j] = dy.t().mm(h).mul_(scales[j]);
      }
      if (need_input) LeftFactor(g, MatmulPrecision::highest).add_product(a, dx);
    }
    result[0] = dx;
    return result;
  }
};

bool plain_path(const WeightSite& site, const Context& context) {
  if (!site.scalings.empty() || site.weight.requires_grad() || (site.bias.defined() && site.bias.requires_grad())) return true;
  for (const LowRank* term : site.low_rank)
    if (term->magnitude.defined() || (context.training && term->dropout > 0.0)) return true;
  return false;
}

/// The map itself, whose tensors may be trained ones.
at::Tensor matrix(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const Context& context) {
  const bool learns = weight.requires_grad() || (bias.defined() && bias.requires_grad());
  return learns && context.examples > 0 ? learned_linear(x, as_float(weight), bias, context)
                                        : frozen_matrix(x, weight, bias, context.matmul_precision);
}

/// DoRA: m / ‖W + s B A‖ · (W x + s B A x) + bias. With dropout, x stands behind it in all but the frozen map itself, as in PEFT.
at::Tensor decomposed(const at::Tensor& x, const WeightSite& site, const LowRank& term, const Context& context) {
  at::Tensor length;
  {
    const at::NoGradGuard no_grad;
    length = at::addmm(as_float(site.weight), term.b, term.a, 1.0, term.scale).norm(2, {1});
  }
  const at::Tensor share = spread_rows(term.magnitude, x.size(0), context) / length;
  const at::Tensor dropped = dropout(x, term.dropout, context);
  const at::Tensor update = learned_linear(learned_linear(dropped, term.a, {}, context), term.b, {}, context) * term.scale;
  if (dropped.is_same(x)) {
    const at::Tensor y = (frozen_matrix(x, site.weight, {}, context.matmul_precision) + update) * share;
    return site.bias.defined() ? y + spread_rows(site.bias, x.size(0), context) : y;
  }
  return matrix(x, site.weight, site.bias, context) + frozen_matrix(dropped, site.weight, {}, context.matmul_precision) * (share - 1.0) +
         update * share;
}

at::Tensor plain(const at::Tensor& x, const WeightSite& site, const Context& context) {
  at::Tensor in = x;
  for (const Scaling* scaling : site.scalings)
    if (scaling->input) in = in * spread_rows(scaling->factors, in.size(0), context);
  at::Tensor y;
  if (!site.low_rank.empty() && site.low_rank.front()->magnitude.defined()) {
    MMTUNE_ASSERT(site.low_rank.size() == 1);
    y = decomposed(in, site, *site.low_rank.front(), context);
  } else {
    y = matrix(in, site.weight, site.bias, context);
    for (const LowRank* term : site.low_rank) {
      const at::Tensor h = learned_linear(dropout(in, term->dropout, context), term->a, {}, context);
      y = y + learned_linear(h, term->b, {}, context) * term->scale;
    }
  }
  for (const Scaling* scaling : site.scalings)
    if (!scaling->input) y = y * spread_rows(scaling->factors.t(), y.size(0), context);
  return y;
}

}  // namespace

at::Tensor frozen_matrix(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, MatmulPrecision precision) {
  if (x.dim() > 2) {
    std::vector<std::int64_t> shape(x.sizes().begin(), x.sizes().end() - 1);
    shape.push_back(weight.size(0));
    return frozen_matrix(x.reshape({-1, x.size(-1)}), weight, bias, precision).view(shape);
  }
  const bool learns = weight.requires_grad() || (bias.defined() && bias.requires_grad());
  const Arithmetic arithmetic = arithmetic_of(precision, x, weight.size(0));
  if (learns && arithmetic == Arithmetic::rounded) {
    const at::Tensor y = at::linear(x.to(at::kBFloat16), weight.to(at::kBFloat16));
    return bias.defined() ? y + bias : y.to(at::kFloat);
  }
  if (weight.scalar_type() == at::kFloat && (learns || arithmetic == Arithmetic::float32)) return at::linear(x, weight, bias);
  const Plan plan{.weights = {weight}, .biases = {learns ? at::Tensor() : bias}, .precision = precision};
  const at::Tensor y = FrozenGroup::apply(x, at::TensorList(), plan).front();
  return learns && bias.defined() ? y + bias : y;
}

at::Tensor lookup(const at::Tensor& table, const at::Tensor& indices) {
  return at::embedding(table, indices).to(at::kFloat);
}

Linear::Linear(const Weights& weights, std::int64_t in, std::int64_t out, std::int64_t layer, bool bias) {
  site_.name = weights.path();
  site_.in = in;
  site_.out = out;
  site_.layer = layer;
  site_.weight = weights.matrix("weight", {out, in});
  if (bias) site_.bias = weights.tensor("bias", {out}, Init::zeros);
}

void Linear::list(SiteTable& table) {
  table.weights.push_back(&site_);
  table.tensors.push_back({site_.name + ".weight", &site_.weight, SlotSquares::itself});
  if (site_.bias.defined()) table.tensors.push_back({site_.name + ".bias", &site_.bias, SlotSquares::itself});
}

at::Tensor Linear::operator()(const at::Tensor& x, const Context& context) const {
  const Linear* const self = this;
  return linear_group(x, {&self, 1}, context).front();
}

std::vector<at::Tensor> linear_group(const at::Tensor& x, std::span<const Linear* const> maps, const Context& context) {
  MMTUNE_ASSERT(x.dim() == 2);
  bool any_plain = false;
  for (const Linear* map : maps) any_plain = any_plain || plain_path(map->site(), context);
  if (any_plain) {
    std::vector<at::Tensor> outputs;
    for (const Linear* map : maps) outputs.push_back(plain(x, map->site(), context));
    return outputs;
  }
  std::vector<at::Tensor> factors;
  Plan plan;
  plan.precision = context.matmul_precision;
  plan.examples = context.examples;
  plan.by_row = context.by_row;
  for (std::size_t i = 0; i < maps.size(); ++i) {
    const WeightSite& site = maps[i]->site();
    plan.weights.push_back(site.weight);
    plan.biases.push_back(site.bias);
    for (const LowRank* term : site.low_rank) {
      factors.push_back(term->a);
      factors.push_back(term->b);
      plan.term_map.push_back(static_cast<std::int64_t>(i));
      plan.term_scale.push_back(term->scale);
    }
  }
  return FrozenGroup::apply(x, at::TensorList(factors), plan);
}

}  // namespace mmtune::nn
