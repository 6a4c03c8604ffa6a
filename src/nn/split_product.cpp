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

bool splits_products(MatmulPrecision precision, const at::Tensor& x, std::int64_t columns) {
  constexpr std::int64_t least_rows = 64, least_width = 64;
  return precision == MatmulPrecision::high && x.dim() == 2 && x.size(0) >= least_rows && x.size(1) >= least_width &&
         columns >= least_width && x.device().is_cpu() && x.scalar_type() == at::kFloat && split_kernel() != nullptr;
}

const at::Tensor& LeftFactor::packed() {
  if (!packed_.defined()) packed_ = packed_rows(x_);
  return packed_;
}

at::Tensor LeftFactor::times_transposed(const at::Tensor& weight, const at::Tensor& bias) {
  if (!splits_products(precision_, x_, weight.size(0))) return at::linear(x_, as_float(weight), bias);
  at::Tensor out = at::empty({x_.size(0), weight.size(0)}, x_.options());
  multiply(packed(), as_float(weight), Form::rows_are_columns, bias, out, false);
  return out;
}

void LeftFactor::add_transposed(const at::Tensor& weight, at::Tensor& sum) {
  if (!splits_products(precision_, x_, weight.size(0))) {
    sum.addmm_(x_, as_float(weight).t());
  } else {
    multiply(packed(), as_float(weight), Form::rows_are_columns, {}, sum, true);
  }
}

void LeftFactor::add_product(const at::Tensor& weight, at::Tensor& sum) {
  const bool split = splits_products(precision_, x_, weight.size(1)), add = sum.defined();
  if (!split) {
    if (add) {
      sum.addmm_(x_, as_float(weight));
    } else {
      sum = x_.mm(as_float(weight));
    }
    return;
  }
  if (!add) sum = at::empty({x_.size(0), weight.size(1)}, x_.options());
  multiply(packed(), as_float(weight), Form::plain, {}, sum, add);
}

}  // namespace mmtune::nn
