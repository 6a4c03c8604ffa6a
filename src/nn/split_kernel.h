#pragma once
// Products of float32 matrices on a processor's bfloat16 matrix units (Intel AMX). A float32 number is kept as the sum of two bfloat16
// ones, high = bf16(x) and low = bf16(x - high), which hold 16 of its 24 bits; of the four products of such sums the three large ones
// are added up in float32. PyTorch describes the same arithmetic as float32_matmul_precision "high".

#include <cstdint>

namespace mmtune::nn {

/// Works on packed blocks. 32 rows of a left matrix, or 32 columns of a right one, are a block: for every 32 of the depth 4 KiB, which are
/// two tiles of high parts and two of low parts, as the matrix units read them. What lies beyond the matrix is zero.
struct SplitKernel {
  static constexpr std::int64_t edge = 32;              ///< rows or columns of a block, and depth of its steps
  static constexpr std::int64_t step_elements = 2'048;  ///< 16-bit numbers of a block for one step of the depth
  static constexpr std::int64_t steps(std::int64_t depth) { return (depth + edge - 1) / edge; }
  static constexpr std::int64_t block_elements(std::int64_t depth) { return steps(depth) * step_elements; }

  /// `rows` <= 32 rows of `depth` numbers, `stride` apart.
  void (*pack_left)(const float* rows_begin, std::int64_t stride, std::int64_t rows, std::int64_t depth, std::uint16_t* block);
  /// `columns` <= 32 columns. Number k of column n lies at begin[n * stride + k] (`rows_are_columns`) or begin[k * stride + n].
  void (*pack_right)(const float* begin, std::int64_t stride, bool rows_are_columns, std::int64_t columns, std::int64_t depth,
                     std::uint16_t* block);

  struct Task {
    const std::uint16_t* left;   ///< the first step of the first block that is to be multiplied
    const std::uint16_t* right;  ///< likewise
    std::int64_t left_block;     ///< elements from one left block to the next
    std::int64_t right_block;
    std::int64_t rows;     ///< of the result
    std::int64_t columns;  ///< of the result
    std::int64_t steps;    ///< of the depth
    float* out;            ///< [rows, columns]
    std::int64_t out_stride;
    const float* bias;  ///< [columns], or null
    bool add;           ///< to what `out` holds; without a bias then
  };
  void (*multiply)(const Task& task);
};

/// Null where this processor, or its operating system, does not offer the units to this process.
const SplitKernel* split_kernel();

}  // namespace mmtune::nn
