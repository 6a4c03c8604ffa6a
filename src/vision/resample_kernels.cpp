// The two passes. Weights have 22 fractional bits, too many for the 16-bit multiply-add that AVX2 is fast at, so that each is split into
// a high part and 11 low bits: two exact multiply-adds of pixel pairs. Sums are taken modulo 2^32, in which the true sum fits, so that
// every path gives the same bits.

#include <algorithm>
#include <cstring>

#include "vision/resample.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace mmtune::vision {

namespace {

constexpr std::uint32_t half = 1U << (weight_bits - 1);

std::uint8_t clip(std::uint32_t sum) {
  const std::int32_t value = static_cast<std::int32_t>(sum) >> weight_bits;
  return static_cast<std::uint8_t>(std::clamp(value, 0, 255));
}

#if defined(__AVX2__)

constexpr int low_bits = 11;
constexpr std::int64_t group = 4;  // taps of the horizontal kernel's inner step: two pixel pairs, one in each half of a register

std::int16_t high_part(std::int32_t weight) {
  return static_cast<std::int16_t>(weight >> low_bits);
}
std::int16_t low_part(std::int32_t weight) {
  return static_cast<std::int16_t>(weight & ((1 << low_bits) - 1));
}

// The weights of one output position as the horizontal kernel wants them: for every group of four taps a register of high parts and one
// of low parts, each [a b a b a b 0 0 | c d c d c d 0 0] against the pixels' [r r g g b b 0 0 | r r g g b b 0 0].
struct alignas(32) GroupWeights {
  std::int16_t high[16];
  std::int16_t low[16];
};

struct GroupedTaps {
  std::vector<GroupWeights> weights;
  std::vector<std::int64_t> starts;  // index of every output position's first group; one more at the end
};

GroupedTaps group_taps(const Taps& taps) {
  GroupedTaps grouped;
  const std::size_t size = taps.firsts.size();
  grouped.starts.resize(size + 1);
  for (std::size_t i = 0; i < size; ++i) grouped.starts[i + 1] = grouped.starts[i] + (taps.counts[i] + group - 1) / group;
  grouped.weights.resize(static_cast<std::size_t>(grouped.starts[size]));
  for (std::size_t i = 0; i < size; ++i) {
    const std::int32_t* weights = taps.weights.data() + static_cast<std::int64_t>(i) * taps.stride;
    for (std::int64_t t = 0; t < taps.counts[i]; ++t) {
      GroupWeights& place = grouped.weights[static_cast<std::size_t>(grouped.starts[i] + t / group)];
      for (std::int64_t channel = 0; channel < 3; ++channel) {
        const std::int64_t lane = t % group / 2 * 8 + channel * 2 + t % 2;
        place.high[lane] = high_part(weights[t]);
        place.low[lane] = low_part(weights[t]);
      }
    }
  }
  return grouped;
}

__m256i load(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

__m256i join(__m256i high, __m256i low) {
  return _mm256_add_epi32(_mm256_slli_epi32(high, low_bits), low);
}

// Four rows at once, so that the weights are loaded once for all. 16 bytes are read from every group's first pixel.
void four_rows(const std::uint8_t* const rows[4], const Taps& taps, const GroupedTaps& grouped, std::uint8_t* const targets[4]) {
  const __m256i spread = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,  //
                                          6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
  const __m128i rounding = _mm_set1_epi32(static_cast<std::int32_t>(half));
  const std::size_t size = taps.firsts.size();
  for (std::size_t i = 0; i < size; ++i) {
    __m256i high[4] = {};
    __m256i low[4] = {};
    std::int64_t offset = taps.firsts[i] * 3;
    for (std::int64_t g = grouped.starts[i]; g < grouped.starts[i + 1]; ++g, offset += group * 3) {
      const GroupWeights& weights = grouped.weights[static_cast<std::size_t>(g)];
      const __m256i high_weights = load(weights.high);
      const __m256i low_weights = load(weights.low);
      for (int r = 0; r < 4; ++r) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[r] + offset));
        const __m256i pixels = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), spread);
        high[r] = _mm256_add_epi32(high[r], _mm256_madd_epi16(pixels, high_weights));
        low[r] = _mm256_add_epi32(low[r], _mm256_madd_epi16(pixels, low_weights));
      }
    }
    __m128i sums[4];
    for (int r = 0; r < 4; ++r) {
      const __m256i both = join(high[r], low[r]);
      const __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
      sums[r] = _mm_srai_epi32(_mm_add_epi32(sum, rounding), weight_bits);
    }
    alignas(16) std::uint8_t clipped[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(clipped),
                    _mm_packus_epi16(_mm_packs_epi32(sums[0], sums[1]), _mm_packs_epi32(sums[2], sums[3])));
    // A fourth byte may be written wherever the next pixel overwrites it.
    const std::size_t bytes = i + 1 < size ? 4 : 3;
    for (int r = 0; r < 4; ++r) {
      if (bytes == 4) {
        std::memcpy(targets[r] + i * 3, clipped + r * 4, 4);
      } else {
        std::memcpy(targets[r] + i * 3, clipped + r * 4, 3);
      }
    }
  }
}

// 32 bytes of one output row; returns how many bytes of the row were done.
std::int64_t wide_column(const std::uint8_t* first, std::int64_t row_bytes, std::int64_t count, const std::int32_t* weights,
                         std::uint8_t* target) {
  const __m256i zero = _mm256_setzero_si256();
  const __m256i rounding = _mm256_set1_epi32(static_cast<std::int32_t>(half));
  std::int64_t x = 0;
  for (; x + 32 <= row_bytes; x += 32) {
    __m256i high[4] = {};
    __m256i low[4] = {};
    for (std::int64_t t = 0; t < count; t += 2) {
      const bool paired = t + 1 < count;
      const std::int32_t next = paired ? weights[t + 1] : 0;
      const __m256i upper = load(first + t * row_bytes + x);
      const __m256i lower = paired ? load(first + (t + 1) * row_bytes + x) : zero;
      const auto pair = [](std::int16_t a, std::int16_t b) {
        return _mm256_set1_epi32(
            static_cast<std::int32_t>(static_cast<std::uint32_t>(static_cast<std::uint16_t>(b)) << 16 | static_cast<std::uint16_t>(a)));
      };
      const __m256i high_weights = pair(high_part(weights[t]), high_part(next));
      const __m256i low_weights = pair(low_part(weights[t]), low_part(next));
      const __m256i mixed[2] = {_mm256_unpacklo_epi8(upper, lower), _mm256_unpackhi_epi8(upper, lower)};
      for (int part = 0; part < 4; ++part) {
        const __m256i pixels = part % 2 == 0 ? _mm256_unpacklo_epi8(mixed[part / 2], zero) : _mm256_unpackhi_epi8(mixed[part / 2], zero);
        high[part] = _mm256_add_epi32(high[part], _mm256_madd_epi16(pixels, high_weights));
        low[part] = _mm256_add_epi32(low[part], _mm256_madd_epi16(pixels, low_weights));
      }
    }
    __m256i sums[4];
    for (int part = 0; part < 4; ++part) {
      sums[part] = _mm256_srai_epi32(_mm256_add_epi32(join(high[part], low[part]), rounding), weight_bits);
    }
    // The packs undo the interleaving within each half.
    const __m256i words[2] = {_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3])};
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target + x), _mm256_packus_epi16(words[0], words[1]));
  }
  return x;
}

#else

std::int64_t wide_column(const std::uint8_t*, std::int64_t, std::int64_t, const std::int32_t*, std::uint8_t*) {
  return 0;
}

#endif

}  // namespace

void resample_rows(const std::uint8_t* in, std::int64_t in_width, std::int64_t rows, const Taps& taps, std::uint8_t* out) {
  const std::int64_t in_stride = in_width * 3;
  const auto out_width = static_cast<std::int64_t>(taps.firsts.size());
  const std::int64_t out_stride = out_width * 3;
#if defined(__AVX2__)
  const GroupedTaps grouped = group_taps(taps);
  // The kernel reads up to 13 bytes behind a row (with weight zero). Behind the last rows there may be nothing, so that they are copied to
  // where there is; more than one row where they are narrow.
  constexpr std::int64_t margin = 16;
  const std::int64_t copied = std::min(rows, 1 + margin / in_stride);
  const std::int64_t first_copied = rows - copied;
  std::vector<std::uint8_t> copy(static_cast<std::size_t>(copied * in_stride + margin));
  std::copy_n(in + first_copied * in_stride, copied * in_stride, copy.begin());
  for (std::int64_t y = 0; y < rows; y += 4) {
    const std::uint8_t* sources[4];
    std::uint8_t* targets[4];
    for (std::int64_t r = 0; r < 4; ++r) {
      const std::int64_t row = std::min(y + r, rows - 1);  // the last block may repeat the last row
      sources[r] = row < first_copied ? in + row * in_stride : copy.data() + (row - first_copied) * in_stride;
      targets[r] = out + row * out_stride;
    }
    four_rows(sources, taps, grouped, targets);
  }
#else
  for (std::int64_t y = 0; y < rows; ++y) {
    for (std::int64_t i = 0; i < out_width; ++i) {
      const std::uint8_t* source = in + y * in_stride + taps.firsts[static_cast<std::size_t>(i)] * 3;
      const std::int32_t* weights = taps.weights.data() + i * taps.stride;
      std::uint32_t sums[3] = {half, half, half};
      for (std::int64_t t = 0; t < taps.counts[static_cast<std::size_t>(i)]; ++t) {
        for (std::int64_t channel = 0; channel < 3; ++channel) {
          sums[channel] += static_cast<std::uint32_t>(weights[t]) * source[t * 3 + channel];
        }
      }
      for (std::int64_t channel = 0; channel < 3; ++channel) out[y * out_stride + i * 3 + channel] = clip(sums[channel]);
    }
  }
#endif
}

void resample_columns(const std::uint8_t* in, std::int64_t row_bytes, std::int64_t first_row, const Taps& taps, std::uint8_t* out) {
  const auto rows = static_cast<std::int64_t>(taps.firsts.size());
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t count = taps.counts[static_cast<std::size_t>(i)];
    const std::uint8_t* first = in + (taps.firsts[static_cast<std::size_t>(i)] - first_row) * row_bytes;
    const std::int32_t* weights = taps.weights.data() + i * taps.stride;
    std::uint8_t* target = out + i * row_bytes;
    for (std::int64_t x = wide_column(first, row_bytes, count, weights, target); x < row_bytes; ++x) {
      std::uint32_t sum = half;
      for (std::int64_t t = 0; t < count; ++t) sum += static_cast<std::uint32_t>(weights[t]) * first[t * row_bytes + x];
      target[x] = clip(sum);
    }
  }
}

}  // namespace mmtune::vision
