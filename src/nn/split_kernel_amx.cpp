// split_kernel.h on AMX's tiles: eight registers of 16 rows of 64 bytes.

#ifdef __AMX_BF16__

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "nn/split_kernel.h"

namespace mmtune::nn {

namespace {

constexpr std::int64_t edge = SplitKernel::edge;
constexpr std::int64_t tile = 512;  // 16-bit numbers of a tile

/// 32 numbers as high and low parts, in order.
struct Halves {
  __m512i high, low;
};

Halves split(__m512 first, __m512 second) {
  const __m512i high = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
  const auto back = [](__m256i half) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)); };
  const __m512 rest_first = _mm512_sub_ps(first, back(_mm512_castsi512_si256(high)));
  const __m512 rest_second = _mm512_sub_ps(second, back(_mm512_extracti64x4_epi64(high, 1)));
  return {high, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(rest_second, rest_first))};
}

/// Numbers [0, count) of 16; the rest is zero and not read.
__m512 load(const float* from, std::int64_t count) {
  if (count >= 16) return _mm512_loadu_ps(from);
  if (count <= 0) return _mm512_setzero_ps();
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << count) - 1U), from);
}

void pack_left(const float* begin, std::int64_t stride, std::int64_t rows, std::int64_t depth, std::uint16_t* block) {
  for (std::int64_t k = 0; k < depth; k += edge, block += SplitKernel::step_elements)
    for (std::int64_t r = 0; r < edge; ++r) {
      Halves row{_mm512_setzero_si512(), _mm512_setzero_si512()};
      if (r < rows) row = split(load(begin + r * stride + k, depth - k), load(begin + r * stride + k + 16, depth - k - 16));
      std::uint16_t* const to = block + (r / 16) * tile + (r % 16) * edge;
      _mm512_store_si512(to, row.high);
      _mm512_store_si512(to + 2 * tile, row.low);
    }
}

/// Row i of 16 becomes column i, of 32-bit numbers.
void transpose(__m512i* m) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(m[i], m[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(m[i], m[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    m[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    m[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    m[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    m[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(m[i], m[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(m[i], m[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(m[i + 8], m[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(m[i + 8], m[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    m[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    m[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    m[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    m[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

/// A column's numbers 2i and 2i+1 lie side by side in row i of a right tile.
void pack_rows_as_columns(const float* begin, std::int64_t stride, std::int64_t columns, std::int64_t depth, std::uint16_t* block) {
  for (std::int64_t k = 0; k < depth; k += edge, block += SplitKernel::step_elements)
    for (std::int64_t half = 0; half < 2; ++half) {
      __m512i high[16], low[16];
      for (std::int64_t i = 0; i < 16; ++i) {
        const std::int64_t n = half * 16 + i;
        Halves column{_mm512_setzero_si512(), _mm512_setzero_si512()};
        if (n < columns) column = split(load(begin + n * stride + k, depth - k), load(begin + n * stride + k + 16, depth - k - 16));
        high[i] = column.high;
        low[i] = column.low;
      }
      transpose(high);
      transpose(low);
      for (std::int64_t i = 0; i < 16; ++i) {
        _mm512_store_si512(block + half * tile + i * edge, high[i]);
        _mm512_store_si512(block + (half + 2) * tile + i * edge, low[i]);
      }
    }
}

void pack_columns(const float* begin, std::int64_t stride, std::int64_t columns, std::int64_t depth, std::uint16_t* block) {
  // Interleaves two rows of 16: number i of the first, number i of the second.
  const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19,
                                              3, 18, 2, 17, 1, 16, 0);
  for (std::int64_t k = 0; k < depth; k += edge, block += SplitKernel::step_elements)
    for (std::int64_t i = 0; i < 16; ++i)
      for (std::int64_t half = 0; half < 2; ++half) {
        const std::int64_t row = k + 2 * i, left = columns - half * 16;
        const float* const from = begin + row * stride + half * 16;
        const __m512 first = row < depth ? load(from, left) : _mm512_setzero_ps();
        const __m512 second = row + 1 < depth ? load(from + stride, left) : _mm512_setzero_ps();
        const Halves both = split(first, second);
        _mm512_store_si512(block + half * tile + i * edge, _mm512_permutexvar_epi16(interleave, both.high));
        _mm512_store_si512(block + (half + 2) * tile + i * edge, _mm512_permutexvar_epi16(interleave, both.low));
      }
}

void pack_right(const float* begin, std::int64_t stride, bool rows_are_columns, std::int64_t columns, std::int64_t depth,
                std::uint16_t* block) {
  if (rows_are_columns)
    pack_rows_as_columns(begin, stride, columns, depth, block);
  else
    pack_columns(begin, stride, columns, depth, block);
}

/// Tiles 0–3 += tiles 4 and 5 (rows) · tiles 6 and 7 (columns).
inline void multiply_tiles() {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

/// Tiles 0–3 += left block · right block: tile 2i+j is rows 16i…, columns 16j….
void accumulate(const std::uint16_t* left, const std::uint16_t* right, std::int64_t steps) {
  constexpr int row = 64;
  for (std::int64_t s = 0; s < steps; ++s, left += SplitKernel::step_elements, right += SplitKernel::step_elements) {
    _tile_loadd(4, left, row);
    _tile_loadd(6, right, row);
    _tile_loadd(7, right + tile, row);
    _tile_loadd(5, left + tile, row);
    multiply_tiles();
    _tile_loadd(6, right + 2 * tile, row);
    _tile_loadd(7, right + 3 * tile, row);
    multiply_tiles();
    _tile_loadd(6, right, row);
    _tile_loadd(7, right + tile, row);
    _tile_loadd(4, left + 2 * tile, row);
    _tile_loadd(5, left + 3 * tile, row);
    multiply_tiles();
  }
}

/// One 32 × 32 block of the result, whole or at the matrix's edge.
void block_of(const SplitKernel::Task& task, std::int64_t i, std::int64_t j, const float* bias) {
  const std::int64_t rows = task.rows - i * edge, columns = task.columns - j * edge;
  float* const out = task.out + i * edge * task.out_stride + j * edge;
  alignas(64) float space[edge * edge];
  const bool inside = rows >= edge && columns >= edge;
  float* const to = inside ? out : space;
  const std::int64_t stride = inside ? task.out_stride : edge;
  const int bytes = static_cast<int>(stride * 4);
  if (task.add && !inside) {
    std::memset(space, 0, sizeof space);
    for (std::int64_t r = 0; r < rows && r < edge; ++r)
      std::memcpy(space + r * edge, out + r * task.out_stride, sizeof(float) * static_cast<std::size_t>(columns < edge ? columns : edge));
  }
  // A distance of 0 reads the bias into every row.
  const float* const from = task.add ? to : bias;
  const int from_bytes = task.add ? bytes : 0;
  const std::int64_t below = task.add ? 16 * stride : 0;
  if (from == nullptr) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, from, from_bytes);
    _tile_loadd(1, from + 16, from_bytes);
    _tile_loadd(2, from + below, from_bytes);
    _tile_loadd(3, from + below + 16, from_bytes);
  }
  accumulate(task.left + i * task.left_block, task.right + j * task.right_block, task.steps);
  _tile_stored(0, to, bytes);
  _tile_stored(1, to + 16, bytes);
  _tile_stored(2, to + 16 * stride, bytes);
  _tile_stored(3, to + 16 * stride + 16, bytes);
  if (inside) return;
  for (std::int64_t r = 0; r < rows && r < edge; ++r)
    std::memcpy(out + r * task.out_stride, space + r * edge, sizeof(float) * static_cast<std::size_t>(columns < edge ? columns : edge));
}

struct alignas(64) TileShapes {
  std::uint8_t palette = 1;
  std::uint8_t start = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

void multiply(const SplitKernel::Task& task) {
  const TileShapes shapes;
  _tile_loadconfig(&shapes);
  for (std::int64_t j = 0; j * edge < task.columns; ++j) {
    alignas(64) float bias[edge] = {};
    if (task.bias != nullptr)
      for (std::int64_t n = 0; n < edge && j * edge + n < task.columns; ++n) bias[n] = task.bias[j * edge + n];
    for (std::int64_t i = 0; i * edge < task.rows; ++i) block_of(task, i, j, task.bias != nullptr ? bias : nullptr);
  }
  _tile_release();
}

/// Linux gives a process the tiles' state only where it asks for it.
bool tiles_allowed() {
  constexpr int request_permission = 0x1023;
  constexpr int tile_data = 18;
  return ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

bool units_present() {
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl")) return false;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned amx_bf16 = 1U << 22U, amx_tile = 1U << 24U, avx512_bf16 = 1U << 5U;
  if ((d & amx_bf16) == 0 || (d & amx_tile) == 0) return false;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & avx512_bf16) != 0;
}

}  // namespace

const SplitKernel* amx_split_kernel() {
  static const SplitKernel kernel{pack_left, pack_right, multiply};
  static const bool usable = units_present() && tiles_allowed();
  return usable ? &kernel : nullptr;
}

}  // namespace mmtune::nn

#endif
