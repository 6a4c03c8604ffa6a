#include "nn/split_product.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "core/error.h"
#include "nn/split_kernel.h"

namespace mmtune::nn {

namespace {

constexpr std::int64_t edge = SplitKernel::edge;
/// Steps of the depth that are multiplied at once, and left blocks that stay in a core's cache meanwhile: 1 MiB.
constexpr std::int64_t steps_at_once = 32;
constexpr std::int64_t blocks_at_once = 8;

enum class Form { rows_are_columns, plain };  ///< of a right factor: W [N, K] or [K, N]

constexpr std::int64_t blocks_of(std::int64_t length) {
  return (length + edge - 1) / edge;
}

std::uint16_t* elements(const at::Tensor& blocks) {
  return static_cast<std::uint16_t*>(blocks.data_ptr());
}

/// LibTorch's tensors begin on a cache line, and so does every tile then.
at::Tensor make_blocks(std::int64_t length, std::int64_t depth) {
  return at::empty({blocks_of(length), SplitKernel::block_elements(depth)}, at::kShort);
}

at::Tensor packed_rows(const at::Tensor& given) {
  const at::Tensor x = given.stride(1) == 1 ? given : given.contiguous();
  const std::int64_t rows = x.size(0), depth = x.size(1), stride = x.stride(0);
  at::Tensor blocks = make_blocks(rows, depth);
  const float* const from = x.const_data_ptr<float>();
  at::parallel_for(0, blocks_of(rows), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      split_kernel()->pack_left(from + i * edge * stride, stride, std::min(edge, rows - i * edge), depth,
                                elements(blocks) + i * blocks.size(1));
  });
  return blocks;
}

at::Tensor packed_columns(const at::Tensor& given, Form form) {
  const at::Tensor weight = given.contiguous();
  const bool rows_are_columns = form == Form::rows_are_columns;
  const std::int64_t columns = weight.size(rows_are_columns ? 0 : 1), depth = weight.size(rows_are_columns ? 1 : 0);
  const std::int64_t stride = weight.stride(0);
  at::Tensor blocks = make_blocks(columns, depth);
  const float* const from = weight.const_data_ptr<float>();
  at::parallel_for(0, blocks_of(columns), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t j = begin; j < end; ++j)
      split_kernel()->pack_right(from + j * edge * (rows_are_columns ? stride : 1), stride, rows_are_columns,
                                 std::min(edge, columns - j * edge), depth, elements(blocks) + j * blocks.size(1));
  });
  return blocks;
}

/// The product of left blocks [i, i_end) and right blocks [j, j_end), some of both at a time, so that they stay in a core's cache.
void multiply_blocks(const SplitKernel::Task& whole, std::int64_t i, std::int64_t i_end, std::int64_t j, std::int64_t j_end) {
  for (std::int64_t first = i; first < i_end; first += blocks_at_once)
    for (std::int64_t step = 0; step < whole.steps; step += steps_at_once) {
      SplitKernel::Task part = whole;
      part.left += first * whole.left_block + step * SplitKernel::step_elements;
      part.right += j * whole.right_block + step * SplitKernel::step_elements;
      part.rows = std::min(whole.rows, std::min(i_end, first + blocks_at_once) * edge) - first * edge;
      part.columns = std::min(whole.columns, j_end * edge) - j * edge;
      part.steps = std::min(steps_at_once, whole.steps - step);
      part.out += first * edge * whole.out_stride + j * edge;
      if (whole.bias != nullptr) part.bias += j * edge;
      if (step > 0) {
        part.add = true;
        part.bias = nullptr;
      }
      split_kernel()->multiply(part);
    }
}

/// out (+)= left · right + bias.
void multiply(const at::Tensor& left, const at::Tensor& weight, Form form, const at::Tensor& bias, const at::Tensor& out, bool add) {
  MMTUNE_ASSERT(out.is_contiguous());
  const at::Tensor right = packed_columns(weight, form);
  MMTUNE_ASSERT(left.size(1) == right.size(1));
  const at::Tensor dense_bias = bias.defined() ? bias.contiguous() : bias;
  SplitKernel::Task task{};
  task.left = elements(left);
  task.right = elements(right);
  task.left_block = task.right_block = left.size(1);
  task.rows = out.size(0);
  task.columns = out.size(1);
  task.steps = left.size(1) / SplitKernel::step_elements;
  task.out = out.mutable_data_ptr<float>();
  task.out_stride = task.columns;
  task.bias = bias.defined() ? dense_bias.const_data_ptr<float>() : nullptr;
  task.add = add;
  const std::int64_t left_blocks = left.size(0), right_blocks = right.size(0);
  if (left_blocks >= right_blocks) {
    at::parallel_for(0, left_blocks, 1, [&](std::int64_t begin, std::int64_t end) { multiply_blocks(task, begin, end, 0, right_blocks); });
  } else {
    at::parallel_for(0, right_blocks, 1, [&](std::int64_t begin, std::int64_t end) { multiply_blocks(task, 0, left_blocks, begin, end); });
  }
}

}  // namespace

at::Tensor as_float(const at::Tensor& weight) {
  return weight.scalar_type() == at::kFloat ? weight : weight.to(at::kFloat);
}

bool multiplies_bfloat16() {
#ifdef __x86_64__
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

Arithmetic arithmetic_of(MatmulPrecision precision, const at::Tensor& x, std::int64_t columns) {
  constexpr std::int64_t least_rows = 64, least_width = 64;
  if (x.dim() != 2 || x.size(0) < least_rows || x.size(1) < least_width || columns < least_width || !x.device().is_cpu() ||
      x.scalar_type() != at::kFloat)
    return Arithmetic::float32;
  if (precision == MatmulPrecision::high && split_kernel() != nullptr) return Arithmetic::split;
  if (precision == MatmulPrecision::medium && multiplies_bfloat16()) return Arithmetic::rounded;
  return Arithmetic::float32;
}

const at::Tensor& LeftFactor::packed() {
  if (!packed_.defined()) packed_ = packed_rows(x_);
  return packed_;
}

/// x times `right` [K, N], as bfloat16 [M, N].
at::Tensor LeftFactor::rounded_product(const at::Tensor& right) {
  // LibTorch's library makes a kernel for every number of rows that it meets, which takes longer than many a product: it meets few.
  constexpr std::int64_t step = 64;
  const std::int64_t rows = x_.size(0), padded = (rows + step - 1) / step * step;
  if (!rounded_.defined()) {
    rounded_ = at::empty({padded, x_.size(1)}, x_.options().dtype(at::kBFloat16));
    rounded_.narrow(0, 0, rows).copy_(x_);
    if (padded > rows) rounded_.narrow(0, rows, padded - rows).zero_();
  }
  return rounded_.mm(right.to(at::kBFloat16)).narrow(0, 0, rows);
}

at::Tensor LeftFactor::times_transposed(const at::Tensor& weight, const at::Tensor& bias) {
  switch (arithmetic_of(precision_, x_, weight.size(0))) {
    case Arithmetic::rounded: {
      const at::Tensor y = rounded_product(weight.t());
      return bias.defined() ? at::add(y, bias) : y.to(at::kFloat);
    }
    case Arithmetic::split: {
      at::Tensor out = at::empty({x_.size(0), weight.size(0)}, x_.options());
      multiply(packed(), as_float(weight), Form::rows_are_columns, bias, out, false);
      return out;
    }
    default:
      return at::linear(x_, as_float(weight), bias);
  }
}

void LeftFactor::add_transposed(const at::Tensor& weight, at::Tensor& sum) {
  switch (arithmetic_of(precision_, x_, weight.size(0))) {
    case Arithmetic::rounded:
      sum.add_(rounded_product(weight.t()));
      break;
    case Arithmetic::split:
      multiply(packed(), as_float(weight), Form::rows_are_columns, {}, sum, true);
      break;
    default:
      sum.addmm_(x_, as_float(weight).t());
  }
}

void LeftFactor::add_product(const at::Tensor& weight, at::Tensor& sum) {
  const bool add = sum.defined();
  switch (arithmetic_of(precision_, x_, weight.size(1))) {
    case Arithmetic::rounded: {
      const at::Tensor y = rounded_product(weight);
      sum = add ? sum.add_(y) : y.to(at::kFloat);
      break;
    }
    case Arithmetic::split:
      if (!add) sum = at::empty({x_.size(0), weight.size(1)}, x_.options());
      multiply(packed(), as_float(weight), Form::plain, {}, sum, add);
      break;
    default:
      sum = add ? sum.addmm_(x_, as_float(weight)) : x_.mm(as_float(weight));
  }
}

}  // namespace mmtune::nn
