#pragma once
// The arithmetic of attention for one head of one sequence, in float32 on the CPU: products of small matrices and a softmax, all in a
// core's cache. General matrix libraries reach a tenth to a half of their speed on matrices of this size; these are written for them.

#include <cstdint>
#include <span>

namespace mmtune::nn {

/// One head of one sequence. Matrices are row-major: queries [Tq, d] with rows `query_stride` floats apart, keys and values [Tk, d] with
/// rows `key_stride` floats apart.
struct AttentionHead {
  /// Numbers that are added to the scaled scores: row i begins at `first` + i * `stride` and has Tk of them (stride 0: one row for all).
  struct Added {
    const float* first = nullptr;
    std::int64_t stride = 0;
  };
  static constexpr int most_added = 4;

  const float* queries = nullptr;
  const float* keys = nullptr;
  const float* values = nullptr;
  std::int64_t query_count = 0;
  std::int64_t key_count = 0;
  std::int64_t width = 0;
  std::int64_t query_stride = 0;
  std::int64_t key_stride = 0;
  float scale = 1.0F;
  Added added[most_added];
  int added_count = 0;
};

/// Where the gradients go; null: not wanted. They have the strides of what they are gradients of, `bias` is [Tq, Tk] without gaps.
struct AttentionGradients {
  const float* out = nullptr;  ///< given: the gradient of the output, with the queries' stride
  float* queries = nullptr;
  float* keys = nullptr;
  float* values = nullptr;
  float* bias = nullptr;  ///< of the sum of the scores
};

/// The same functions for one width of vector registers.
struct AttentionKernel {
  const char* name;
  /// Floats of scratch space that forward and backward need.
  std::int64_t (*scratch)(const AttentionHead& head);
  /// softmax(scale · Q Kᵀ + added) V into `out` [Tq, d] with the queries' stride.
  void (*forward)(const AttentionHead& head, float* out, float* scratch);
  /// Computes the scores again; nothing of forward is needed.
  void (*backward)(const AttentionHead& head, const AttentionGradients& gradients, float* scratch);
};

/// Those that this processor can run, the fastest first; never empty.
std::span<const AttentionKernel> attention_kernels();

}  // namespace mmtune::nn
