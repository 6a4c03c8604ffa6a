#pragma once
// The weights of Pillow's 8-bit resampling along one axis, and the two passes that apply them.

#include <cstdint>
#include <vector>

#include "vision/image.h"

namespace mmtune::vision {

/// Fractional bits of a weight: 8 bits of pixel, 2 of head room for negative lobes, the rest of 32.
inline constexpr int weight_bits = 32 - 8 - 2;

/// Output position i is the sum over t < counts[i] of weights[i * stride + t] * input[firsts[i] + t], in units of 2^-weight_bits.
struct Taps {
  std::vector<std::int64_t> firsts;
  std::vector<std::int64_t> counts;
  std::vector<std::int32_t> weights;
  std::int64_t stride = 0;
};

/// For every filter but nearest. The filter is stretched by the scale when the picture shrinks.
Taps make_taps(std::int64_t in_size, std::int64_t out_size, Filter filter);

/// RGB rows of `in_width` pixels to rows of taps.firsts.size() pixels; both tightly packed. The kernels read nothing outside the rows.
void resample_rows(const std::uint8_t* in, std::int64_t in_width, std::int64_t rows, const Taps& taps, std::uint8_t* out);

/// Rows of `row_bytes` bytes, tightly packed: taps.firsts.size() output rows. `first_row` is the input row that `in` points at.
void resample_columns(const std::uint8_t* in, std::int64_t row_bytes, std::int64_t first_row, const Taps& taps, std::uint8_t* out);

}  // namespace mmtune::vision
