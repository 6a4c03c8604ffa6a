#include "nn/diffusion.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "core/error.h"
#include "nn/split_product.h"

namespace mmtune::nn {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t lanes = 16;  ///< maxima side by side, so that the compiler needs no horizontal one per number

/// Whether the loops below take it; everything else goes through LibTorch's operators.
bool plain_floats(const at::Tensor& x) {
  return x.device().is_cpu() && x.scalar_type() == at::kFloat && x.is_contiguous();
}

/// Rows a thread should have at least, for rows of `width` numbers.
std::int64_t grain(std::int64_t width) {
  return std::max<std::int64_t>(1, 32768 / std::max<std::int64_t>(1, width));
}

float largest_of(const float* row, std::int64_t width) {
  std::array<float, lanes> most{};  // of nothing that fires: 0
  std::int64_t j = 0;
  for (; j + lanes <= width; j += lanes)
    for (std::int64_t l = 0; l < lanes; ++l) most[static_cast<std::size_t>(l)] = std::max(most[static_cast<std::size_t>(l)], row[j + l]);
  float all = 0;
  for (const float one : most) all = std::max(all, one);
  for (; j < width; ++j) all = std::max(all, row[j]);
  return all;
}

/// R and, where `weigh`, w ⊙ R in place of the scores, ReLU being the activation; w [N].
void fire_and_weigh(at::Tensor& scores, const at::Tensor& weights, bool weigh) {
  if (!plain_floats(scores)) {
    scores.relu_();
    if (!weigh) return;
    weights.copy_(scores.amax({1}));
    scores.mul_(weights.unsqueeze(1));
    return;
  }
  auto* const all = scores.data_ptr<float>();
  auto* const largest = weigh ? weights.data_ptr<float>() : nullptr;
  const std::int64_t width = scores.size(1);
  at::parallel_for(0, scores.size(0), grain(width), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      float* const row = all + i * width;
      float w = 1;
      if (largest != nullptr) largest[i] = w = largest_of(row, width);
      // What is not a number stays one.
      for (std::int64_t j = 0; j < width; ++j) row[j] = (row[j] < 0 ? 0 : row[j]) * w;
    }
  });
}

/// G Pᵀ becomes dS = factor · w ⊙ G Pᵀ where something fired.
void gate(at::Tensor& gradient, const at::Tensor& fired, const at::Tensor& weights, double factor) {
  if (!plain_floats(gradient) || !plain_floats(fired)) {
    gradient.mul_(fired.gt(0));
    if (weights.defined()) gradient.mul_(weights.unsqueeze(1));
    gradient.mul_(factor);
    return;
  }
  auto* const all = gradient.data_ptr<float>();
  const auto* const open = fired.const_data_ptr<float>();
  const auto* const w = weights.defined() ? weights.const_data_ptr<float>() : nullptr;
  const std::int64_t width = gradient.size(1);
  at::parallel_for(0, gradient.size(0), grain(width), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const float by = static_cast<float>(factor) * (w != nullptr ? w[i] : 1.0F);
      float* const row = all + i * width;
      const float* const at = open + i * width;
      for (std::int64_t j = 0; j < width; ++j) row[j] = at[j] > 0 ? row[j] * by : 0;
    }
  });
}

double exp_of(const at::Tensor& scale) {
  return scale.defined() ? std::exp(scale.item<double>()) : 1.0;
}

/// Nobody but the one who holds this can see what is written there.
bool unshared(const at::Tensor& x) {
  return x.use_count() == 1 && x.storage().use_count() == 1 && !x.is_view() && x.is_contiguous() && !(x.is_leaf() && x.requires_grad());
}

using Lengths = std::vector<std::int64_t>;

struct Plan {
  DiffusionActivation activation;
  bool weigh;
  bool in_place;
  MatmulPrecision precision;
  Lengths lengths;  ///< of the sequences that have prompts of their own; empty: one matrix for all rows
};

bool even(const Lengths& lengths) {
  return std::adjacent_find(lengths.begin(), lengths.end(), std::not_equal_to<>()) == lengths.end();
}

/// The rows of sequences of one length, a matrix a sequence.
at::Tensor by_sequence(const at::Tensor& rows, const Lengths& lengths) {
  return rows.view({static_cast<std::int64_t>(lengths.size()), lengths.front(), rows.size(1)});
}

/// work(b, first row, rows) for every sequence.
template <class Work>
void each_sequence(const Lengths& lengths, const Work& work) {
  std::int64_t first = 0;
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    work(static_cast<std::int64_t>(b), first, lengths[b]);
    first += lengths[b];
  }
}

/// y = beta y + alpha x M with x [N, q], M [q, r] or [B, q, r], y [N, r].
void add_product(at::Tensor& y, const at::Tensor& x, const at::Tensor& m, const Lengths& lengths, double beta, double alpha) {
  if (lengths.empty()) {
    y.addmm_(x, m, beta, alpha);
  } else if (even(lengths)) {
    by_sequence(y, lengths).baddbmm_(by_sequence(x, lengths), m, beta, alpha);
  } else {
    each_sequence(lengths, [&](std::int64_t b, std::int64_t first, std::int64_t rows) {
      y.narrow(0, first, rows).addmm_(x.narrow(0, first, rows), m[b], beta, alpha);
    });
  }
}

at::Tensor product(const at::Tensor& x, const at::Tensor& m, const Lengths& lengths) {
  if (lengths.empty()) return x.mm(m);
  if (even(lengths)) return by_sequence(x, lengths).bmm(m).flatten(0, 1);
  at::Tensor y = at::empty({x.size(0), m.size(2)}, x.options());
  add_product(y, x, m, lengths, 0.0, 1.0);
  return y;
}

/// uᵀ x of all rows, [p, D], or of each sequence's, [B, p, D].
at::Tensor gathered(const at::Tensor& u, const at::Tensor& x, const Lengths& lengths) {
  if (lengths.empty()) return u.t().mm(x);
  if (even(lengths)) return by_sequence(u, lengths).transpose(1, 2).bmm(by_sequence(x, lengths));
  at::Tensor sums = at::empty({static_cast<std::int64_t>(lengths.size()), u.size(1), x.size(1)}, x.options());
  each_sequence(lengths, [&](std::int64_t b, std::int64_t first, std::int64_t rows) {
    at::Tensor sum = sums[b];
    at::mm_out(sum, u.narrow(0, first, rows).t(), x.narrow(0, first, rows));
  });
  return sums;
}

/// x Mᵀ of all rows, in the arithmetic that is allowed.
at::Tensor product_transposed(const at::Tensor& x, const at::Tensor& m, const Lengths& lengths, MatmulPrecision precision) {
  if (!lengths.empty() || arithmetic_of(precision, x, m.size(0)) == Arithmetic::float32) return product(x, m.transpose(-2, -1), lengths);
  return LeftFactor(x, precision).times_transposed(m, {});
}

/// x M, likewise.
at::Tensor product(const at::Tensor& x, const at::Tensor& m, const Lengths& lengths, MatmulPrecision precision) {
  if (!lengths.empty() || arithmetic_of(precision, x, m.size(1)) == Arithmetic::float32) return product(x, m, lengths);
  at::Tensor y;
  LeftFactor(x, precision).add_product(m, y);
  return y;
}

/// c g, and the sum of g ⊙ y, in one pass over both.
std::pair<at::Tensor, at::Tensor> scaled_and_dotted(const at::Tensor& g, const at::Tensor& y, double c) {
  if (!plain_floats(g) || !plain_floats(y)) return {g * c, at::dot(g.reshape({-1}), y.reshape({-1})).view({1})};
  at::Tensor scaled = at::empty_like(g);
  // Parts of one size whatever the threads, so that the sum does not depend on them.
  constexpr std::int64_t part = 16'384;
  const std::int64_t count = g.numel(), parts = (count + part - 1) / part;
  std::vector<double> sums(static_cast<std::size_t>(parts));
  const auto *from = g.const_data_ptr<float>(), *beside = y.const_data_ptr<float>();
  auto* const to = scaled.mutable_data_ptr<float>();
  const auto factor = static_cast<float>(c);
  at::parallel_for(0, parts, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      const std::int64_t last = std::min(count, (p + 1) * part);
      std::array<float, lanes> lane{};
      std::int64_t i = p * part;
      for (; i + lanes <= last; i += lanes)
        for (std::int64_t l = 0; l < lanes; ++l) {
          to[i + l] = from[i + l] * factor;
          lane[static_cast<std::size_t>(l)] += from[i + l] * beside[i + l];
        }
      double sum = 0;
      for (const float one : lane) sum += one;
      for (; i < last; ++i) {
        to[i] = from[i] * factor;
        sum += from[i] * beside[i];
      }
      sums[static_cast<std::size_t>(p)] = sum;
    }
  });
  double sum = 0;
  for (const double one : sums) sum += one;
  return {scaled, at::full({1}, sum, g.options())};
}

/// What sequences have prompts of their own.
Lengths lengths_of(const at::Tensor& input, const Diffusion& diffusion) {
  if (diffusion.keys.dim() == 2) return {};
  MMTUNE_ASSERT(diffusion.layout != nullptr && diffusion.layout->rows() == input.size(0));
  MMTUNE_ASSERT(diffusion.keys.size(0) == diffusion.layout->batch());
  return diffusion.layout->lengths();
}

/// Differentiable inputs: a, X, K, P, then s and w where they are defined.
class Diffuse : public torch::autograd::Function<Diffuse> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& output, const at::Tensor& input, const at::Tensor& keys,
                            const at::Tensor& values, const std::optional<at::Tensor>& s, const std::optional<at::Tensor>& w,
                            const Plan& plan) {
    const at::Tensor scale = s.value_or(at::Tensor()), given = w.value_or(at::Tensor());
    at::Tensor fired = product_transposed(input, keys, plan.lengths, plan.precision), weighed, weights = given;
    if (plan.activation == DiffusionActivation::relu) {
      const bool largest = plan.weigh && !given.defined();
      if (largest) weights = at::empty({input.size(0)}, fired.options());
      fire_and_weigh(fired, weights, largest);
      // With w = 1 or a w of its own (which may be 0) R itself is kept.
      weighed = given.defined() ? fired * given.unsqueeze(1) : fired;
    } else {
      fired = fired.softmax(1);
      if (plan.weigh && !given.defined()) weights = fired.amax({1});
      weighed = weights.defined() ? fired * weights.unsqueeze(1) : fired;
    }
    const double c = exp_of(scale);
    at::Tensor y;
    if (plan.in_place) {
      y = output;
      add_product(y, weighed, values, plan.lengths, c, c);
      context->mark_dirty({y});
    } else if (!plan.lengths.empty()) {
      y = output.clone(at::MemoryFormat::Contiguous);
      add_product(y, weighed, values, plan.lengths, c, c);
    } else {
      y = at::addmm(output, weighed, values, c, c);
    }
    const bool keep = scale.defined() && scale.requires_grad();
    context->saved_data["edge_of_weights"] = std::int64_t{scale.defined() ? 5 : 4};
    context->save_for_backward({input, keys, values, fired, weights, keep ? y : at::Tensor()});
    context->saved_data["c"] = c;
    context->saved_data["softmax"] = plan.activation == DiffusionActivation::softmax;
    context->saved_data["given"] = given.defined();
    context->saved_data["scale"] = keep;
    context->saved_data["lengths"] = plan.lengths;
    context->saved_data["precision"] = static_cast<std::int64_t>(plan.precision);
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &input = saved[0], &keys = saved[1], &values = saved[2], &fired = saved[3], &weights = saved[4], &y = saved[5];
    const double c = context->saved_data["c"].toDouble();
    const bool softmax = context->saved_data["softmax"].toBool(), given = context->saved_data["given"].toBool();
    const Lengths lengths = context->saved_data["lengths"].toIntVector();
    const auto precision = static_cast<MatmulPrecision>(context->saved_data["precision"].toInt());
    const at::Tensor g = gradients[0].contiguous();
    // Under ReLU without a given w, `fired` is w ⊙ R already.
    const at::Tensor weighed = weights.defined() && (softmax || given) ? fired * weights.unsqueeze(1) : fired;

    variable_list result(7);  // a, X, K, P, s, w, and the plan, which has none
    const bool to_scale = context->saved_data["scale"].toBool(), to_output = context->needs_input_grad(0);
    if (to_scale && to_output) {
      std::tie(result[0], result[4]) = scaled_and_dotted(g, y, c);
    } else if (to_output) {
      result[0] = c == 1.0 ? g : g * c;
    } else if (to_scale) {
      result[4] = at::dot(g.view({-1}), y.reshape({-1})).view({1});
    }
    if (context->needs_input_grad(3)) result[3] = c == 1.0 ? gathered(weighed, g, lengths) : gathered(weighed, g, lengths).mul_(c);
    const bool to_weights = given && context->needs_input_grad(static_cast<std::size_t>(context->saved_data["edge_of_weights"].toInt()));
    if (!to_weights && !context->needs_input_grad(1) && !context->needs_input_grad(2)) return result;

    at::Tensor scores = product_transposed(g, values, lengths, precision);
    if (to_weights) result[5] = (scores * fired).sum(1).mul_(c);
    if (softmax) {
      if (weights.defined()) scores.mul_(weights.unsqueeze(1));
      scores = fired * (scores - (scores * fired).sum(1, true));
      scores.mul_(c);
    } else {
      gate(scores, fired, weights, c);
    }
    if (context->needs_input_grad(1)) result[1] = product(scores, keys, lengths, precision);
    if (context->needs_input_grad(2)) result[2] = gathered(scores, input, lengths);
    return result;
  }
};

}  // namespace

at::Tensor diffuse(const at::Tensor& output, const at::Tensor& input, const Diffusion& diffusion, bool overwrite) {
  MMTUNE_ASSERT(output.dim() == 2 && output.sizes() == input.sizes() && diffusion.keys.sizes() == diffusion.values.sizes());
  MMTUNE_ASSERT(diffusion.keys.size(-1) == input.size(1));
  const Plan plan{.activation = diffusion.activation,
                  .weigh = diffusion.weigh,
                  .in_place = overwrite && unshared(output),
                  .precision = diffusion.precision,
                  .lengths = lengths_of(input, diffusion)};
  const auto where_defined = [](const at::Tensor& x) { return x.defined() ? std::optional<at::Tensor>(x) : std::nullopt; };
  return Diffuse::apply(output, input, diffusion.keys, diffusion.values, where_defined(diffusion.scale), where_defined(diffusion.weights),
                        plan);
}

DiffusionParts diffusion_parts(const at::Tensor& input, const Diffusion& diffusion) {
  const at::NoGradGuard no_grad;
  const Lengths lengths = lengths_of(input, diffusion);
  DiffusionParts parts;
  parts.scores = product(input, diffusion.keys.transpose(-2, -1), lengths);
  parts.fired = diffusion.activation == DiffusionActivation::relu ? parts.scores.relu() : parts.scores.softmax(1);
  if (diffusion.weights.defined()) {
    parts.weights = diffusion.weights.unsqueeze(1);
  } else {
    parts.weights = diffusion.weigh ? parts.fired.amax({1}, true) : at::ones({input.size(0), 1}, input.options());
  }
  parts.added = product(parts.fired, diffusion.values, lengths);
  return parts;
}

}  // namespace mmtune::nn
