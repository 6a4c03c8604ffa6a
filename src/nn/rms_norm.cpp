#include "nn/rms_norm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

namespace mmtune::nn {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Rows that a thread takes at once.
std::int64_t grain(std::int64_t width) {
  constexpr std::int64_t numbers = 1 << 14;
  return std::max<std::int64_t>(1, numbers / width);
}

/// The norm with a frozen weight on the CPU, in one pass over the rows in either direction.
class FrozenRmsNorm : public torch::autograd::Function<FrozenRmsNorm> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& weight, double epsilon) {
    const at::Tensor x = input.detach().contiguous();
    const std::int64_t width = x.size(-1), rows = x.numel() / width;
    at::Tensor out = at::empty_like(x);
    const at::Tensor factors = at::empty({rows}, x.options());
    const auto* const from = x.const_data_ptr<float>();
    const auto* const w = weight.const_data_ptr<float>();
    auto* const to = out.data_ptr<float>();
    auto* const factor = factors.data_ptr<float>();
    at::parallel_for(0, rows, grain(width), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const float* const in = from + row * width;
        float* const y = to + row * width;
        float sums[8] = {};
        std::int64_t i = 0;
        for (; i + 8 <= width; i += 8)
          for (int k = 0; k < 8; ++k) sums[k] += in[i + k] * in[i + k];
        for (; i < width; ++i) sums[0] += in[i] * in[i];
        double squares = 0;
        for (const float sum : sums) squares += sum;
        const auto scale = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(width) + epsilon));
        factor[row] = scale;
        for (std::int64_t j = 0; j < width; ++j) y[j] = in[j] * scale * w[j];
      }
    });
    context->save_for_backward({x, weight, factors});
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &factors = saved[2];
    const at::Tensor dy = gradients[0].contiguous(), dx = at::empty_like(x);
    const std::int64_t width = x.size(-1), rows = x.numel() / width;
    const auto* const from = x.const_data_ptr<float>();
    const auto* const w = weight.const_data_ptr<float>();
    const auto* const g = dy.const_data_ptr<float>();
    const auto* const factor = factors.const_data_ptr<float>();
    auto* const to = dx.data_ptr<float>();
    at::parallel_for(0, rows, grain(width), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const float *const in = from + row * width, *const gradient = g + row * width;
        float* const out = to + row * width;
        float sums[8] = {};
        std::int64_t i = 0;
        for (; i + 8 <= width; i += 8)
          for (int k = 0; k < 8; ++k) sums[k] += gradient[i + k] * w[i + k] * in[i + k];
        for (; i < width; ++i) sums[0] += gradient[i] * w[i] * in[i];
        double dot = 0;
        for (const float sum : sums) dot += sum;
        const float scale = factor[row];
        const auto back = static_cast<float>(dot / static_cast<double>(width)) * scale * scale * scale;
        for (std::int64_t j = 0; j < width; ++j) out[j] = gradient[j] * w[j] * scale - in[j] * back;
      }
    });
    return {dx, {}, {}};
  }
};

}  // namespace

RmsNorm::RmsNorm(const Weights& weights, std::int64_t width, double epsilon)
    : name_(weights.path()), width_(width), epsilon_(epsilon), weight_(weights.tensor("weight", {width}, Init::ones)) {}

at::Tensor RmsNorm::operator()(const at::Tensor& x) const {
  const bool frozen = !weight_.requires_grad() && weight_.dim() == 1;
  if (frozen && x.device().is_cpu() && x.scalar_type() == at::kFloat) return FrozenRmsNorm::apply(x, weight_, epsilon_);
  const at::Tensor normed = x * at::rsqrt(x.pow(2).mean(-1, true) + epsilon_);
  if (weight_.dim() == 1) return normed * weight_;
  // A tensor an example (SlotSquares::spread).
  return (normed.view({weight_.size(0), -1, width_}) * weight_).view_as(x);
}

void RmsNorm::list(SiteTable& table) {
  table.tensors.push_back({name_ + ".weight", &weight_, SlotSquares::spread});
}

}  // namespace mmtune::nn
