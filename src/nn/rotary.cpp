#include "nn/rotary.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "core/error.h"

namespace mmtune::nn {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Turns every head of every row; `direction` is 1, or -1 for back.
at::Tensor turned(const at::Tensor& given, const at::Tensor& cosines, const at::Tensor& sines, float direction) {
  const at::Tensor x = given.contiguous();
  const std::int64_t rows = x.size(0), width = x.size(1), half = cosines.size(1);
  MMTUNE_ASSERT(cosines.size(0) == rows && width % (2 * half) == 0);
  if (!x.device().is_cpu() || x.scalar_type() != at::kFloat) {
    const at::Tensor heads = x.view({rows, -1, 2, half}), one = heads.select(2, 0), other = heads.select(2, 1);
    const at::Tensor c = cosines.unsqueeze(1), s = sines.unsqueeze(1) * direction;
    return at::stack({one * c - other * s, other * c + one * s}, 2).view({rows, width});
  }
  at::Tensor out = at::empty_like(x);
  const auto* const from = x.const_data_ptr<float>();
  const auto* const cosine = cosines.const_data_ptr<float>();
  const auto* const sine = sines.const_data_ptr<float>();
  auto* const to = out.data_ptr<float>();
  constexpr std::int64_t numbers = 1 << 14;
  at::parallel_for(0, rows, std::max<std::int64_t>(1, numbers / width), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const float *const c = cosine + row * half, *const s = sine + row * half;
      for (std::int64_t head = 0; head < width; head += 2 * half) {
        const float* const in = from + row * width + head;
        float* const y = to + row * width + head;
        for (std::int64_t j = 0; j < half; ++j) {
          const float one = in[j], other = in[j + half], turn = direction * s[j];
          y[j] = one * c[j] - other * turn;
          y[j + half] = other * c[j] + one * turn;
        }
      }
    }
  });
  return out;
}

class Turn : public torch::autograd::Function<Turn> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cosines, const at::Tensor& sines) {
    context->save_for_backward({cosines, sines});
    return turned(x, cosines, sines, 1.0F);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    return {turned(gradients[0], saved[0], saved[1], -1.0F), {}, {}};
  }
};

}  // namespace

at::Tensor rotary_frequencies(std::int64_t head_width, double base) {
  // In float32 as the models that are compared with compute them.
  const at::Tensor exponents = at::arange(0, head_width, 2, at::kLong).to(at::kFloat) / static_cast<double>(head_width);
  return at::pow(at::scalar_tensor(base, at::kFloat), exponents).reciprocal();
}

Rotation rotation_of(const at::Tensor& positions, const at::Tensor& frequencies) {
  const at::Tensor angles = positions.to(frequencies.device()).to(at::kFloat).unsqueeze(1) * frequencies.unsqueeze(0);
  return {at::cos(angles), at::sin(angles)};
}

at::Tensor rotated(const at::Tensor& x, const Rotation& rotation) {
  return rotation.defined() ? Turn::apply(x, rotation.cosines, rotation.sines) : x;
}

}  // namespace mmtune::nn
