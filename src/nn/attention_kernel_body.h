// The functions of attention_kernel.h for vectors of MMTUNE_VECTOR_BYTES. Included by one source file a width, which is compiled for that
// instruction set: everything here is in an unnamed namespace and nothing of the standard library is used, so that no function compiled
// for a newer processor can end up in the rest of the program.

#include "nn/attention_kernel.h"

// Each source file that includes this is meant to have its own.
// NOLINTBEGIN(misc-definitions-in-headers)
namespace mmtune::nn {
namespace {

using Vec = float __attribute__((vector_size(MMTUNE_VECTOR_BYTES)));
using Mask = int __attribute__((vector_size(MMTUNE_VECTOR_BYTES)));

constexpr std::int64_t lanes = MMTUNE_VECTOR_BYTES / 4;
/// A right-hand matrix is kept in panels of this many columns, padded with zeros, and multiplied with this many rows at a time: as many
/// sums as the registers hold.
constexpr std::int64_t panel = 2 * lanes;
constexpr int tile_rows = MMTUNE_VECTOR_BYTES == 64 ? 12 : 6;
/// Rows of queries whose scores are held at a time take about this much.
constexpr std::int64_t block_floats = 64 << 10;

inline Vec load(const float* from) {
  Vec x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}

inline void store(float* to, Vec x) {
  __builtin_memcpy(to, &x, sizeof x);
}

inline Vec splat(float x) {
  return Vec{} + x;
}

inline std::int64_t least(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}

inline std::int64_t padded(std::int64_t columns) {
  return (columns + panel - 1) / panel * panel;
}

/// x [depth, columns] in panels.
void pack_rows(const float* x, std::int64_t stride, std::int64_t depth, std::int64_t columns, float* to) {
  for (std::int64_t j = 0; j < columns; j += panel) {
    const std::int64_t count = least(panel, columns - j);
    for (std::int64_t t = 0; t < depth; ++t, to += panel) {
      const float* from = x + t * stride + j;
      if (count == panel) {
        store(to, load(from));
        store(to + lanes, load(from + lanes));
        continue;
      }
      for (std::int64_t c = 0; c < count; ++c) to[c] = from[c];
      for (std::int64_t c = count; c < panel; ++c) to[c] = 0.0F;
    }
  }
}

/// xᵀ [depth, columns] in panels, of x [columns, depth].
void pack_columns(const float* x, std::int64_t stride, std::int64_t depth, std::int64_t columns, float* to) {
  for (std::int64_t j = 0; j < columns; j += panel, to += depth * panel) {
    const std::int64_t count = least(panel, columns - j);
    for (std::int64_t c = 0; c < count; ++c) {
      const float* from = x + (j + c) * stride;
      for (std::int64_t t = 0; t < depth; ++t) to[t * panel + c] = from[t];
    }
    for (std::int64_t c = count; c < panel; ++c)
      for (std::int64_t t = 0; t < depth; ++t) to[t * panel + c] = 0.0F;
  }
}

/// A left-hand matrix [rows, depth]: element (i, t) is first[i * row_step + t * depth_step].
struct Left {
  const float* first;
  std::int64_t row_step, depth_step;
};

/// Where a product goes; `add`: on top of what is there.
struct Target {
  float* first;
  std::int64_t stride;
  float scale;
  bool add;
};

template <int Rows>
void tile(const Left& a, std::int64_t depth, const float* b, const Target& c, std::int64_t columns) {
  Vec sums[Rows][2] = {};
  const float* at = a.first;
  for (std::int64_t t = 0; t < depth; ++t, at += a.depth_step, b += panel) {
    const Vec left = load(b), right = load(b + lanes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const float x = at[r * a.row_step];
      sums[r][0] += x * left;
      sums[r][1] += x * right;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
    float* to = c.first + r * c.stride;
    Vec left = sums[r][0] * c.scale, right = sums[r][1] * c.scale;
    if (columns >= panel) {
      if (c.add) {
        left += load(to);
        right += load(to + lanes);
      }
      store(to, left);
      store(to + lanes, right);
      continue;
    }
    float rest[panel];
    store(rest, left);
    store(rest + lanes, right);
    for (std::int64_t j = 0; j < columns; ++j) to[j] = c.add ? to[j] + rest[j] : rest[j];
  }
}

/// tile<rows> for a number of rows that is known only now.
template <int Rows = tile_rows>
void tile_of(int rows, const Left& a, std::int64_t depth, const float* b, const Target& c, std::int64_t columns) {
  if constexpr (Rows > 0) {
    if (rows == Rows)
      tile<Rows>(a, depth, b, c, columns);
    else
      tile_of<Rows - 1>(rows, a, depth, b, c, columns);
  }
}

/// scale · A B → C, with B [depth, columns] in panels. `whole`: C has room for all columns of the last panel.
void product(const Left& a, std::int64_t rows, std::int64_t depth, const float* b, std::int64_t columns, const Target& c, bool whole) {
  for (std::int64_t j = 0; j < columns; j += panel, b += depth * panel) {
    const std::int64_t count = whole ? panel : least(panel, columns - j);
    for (std::int64_t i = 0; i < rows; i += tile_rows)
      tile_of(static_cast<int>(least(tile_rows, rows - i)), {a.first + i * a.row_step, a.row_step, a.depth_step}, depth, b,
              {c.first + i * c.stride + j, c.stride, c.scale, c.add}, count);
  }
}

/// e^x for x <= 0, within two units in the last place (Cephes' polynomial); 0 where float32 has no normal number for it.
inline Vec exponential(Vec x) {
  const Vec lowest = splat(-87.33654F);
  const Mask below = x < lowest;
  x = below ? lowest : x;
  const Vec magic = splat(12582912.0F);  // 1.5 · 2²³: adding it rounds to an integer
  const Vec n = (x * 1.44269504F + magic) - magic;
  const Vec r = x - n * 0.693359375F - n * -2.12194440e-4F;
  Vec p = splat(1.9875691500e-4F);
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * (r * r) + r + 1.0F;
  const Mask exponent = (__builtin_convertvector(n, Mask) + 127) << 23;
  Vec power;
  __builtin_memcpy(&power, &exponent, sizeof power);
  return below ? Vec{} : p * power;
}

inline float sum_of(Vec x) {
  float parts[lanes];
  store(parts, x);
  float sum = 0.0F;
  for (std::int64_t i = 0; i < lanes; ++i) sum += parts[i];
  return sum;
}

/// Softmax over the first `keys` of `room` scores; the rest becomes 0.
void softmax(float* scores, std::int64_t keys, std::int64_t room) {
  for (std::int64_t j = keys; j < room; ++j) scores[j] = -__builtin_inff();
  Vec high = load(scores);
  for (std::int64_t j = lanes; j < room; j += lanes) {
    const Vec x = load(scores + j);
    high = x > high ? x : high;
  }
  float parts[lanes];
  store(parts, high);
  float most = parts[0];
  for (std::int64_t i = 1; i < lanes; ++i) most = parts[i] > most ? parts[i] : most;
  Vec sum{};
  for (std::int64_t j = 0; j < room; j += lanes) {
    const Vec e = exponential(load(scores + j) - most);
    store(scores + j, e);
    sum += e;
  }
  const float share = 1.0F / sum_of(sum);
  for (std::int64_t j = 0; j < room; j += lanes) store(scores + j, load(scores + j) * share);
}

/// The probabilities of `count` queries from `first` on: [count, padded(keys)].
void probabilities(const AttentionHead& head, std::int64_t first, std::int64_t count, const float* transposed_keys, float* to) {
  const std::int64_t room = padded(head.key_count);
  product({head.queries + first * head.query_stride, head.query_stride, 1}, count, head.width, transposed_keys, head.key_count,
          {to, room, head.scale, false}, true);
  for (std::int64_t i = 0; i < count; ++i) {
    float* row = to + i * room;
    for (int a = 0; a < head.added_count; ++a) {
      const float* more = head.added[a].first + (first + i) * head.added[a].stride;
      std::int64_t j = 0;
      for (; j + lanes <= head.key_count; j += lanes) store(row + j, load(row + j) + load(more + j));
      for (; j < head.key_count; ++j) row[j] += more[j];
    }
    softmax(row, head.key_count, room);
  }
}

/// How many queries are worked on at a time.
std::int64_t block_rows(const AttentionHead& head) {
  const std::int64_t fitting = block_floats / padded(head.key_count) / tile_rows * tile_rows;
  return least(fitting > tile_rows ? fitting : tile_rows, head.query_count);
}

std::int64_t scratch_floats(const AttentionHead& head) {
  const std::int64_t keys = padded(head.key_count), width = padded(head.width), rows = block_rows(head);
  return 2 * head.width * keys + head.key_count * width + 2 * rows * (keys + width);
}

void forward(const AttentionHead& head, float* out, float* scratch) {
  const std::int64_t room = padded(head.key_count), rows = block_rows(head);
  float* transposed_keys = scratch;
  float* values = transposed_keys + head.width * room;
  float* scores = values + head.key_count * padded(head.width);
  pack_columns(head.keys, head.key_stride, head.width, head.key_count, transposed_keys);
  pack_rows(head.values, head.key_stride, head.key_count, head.width, values);
  for (std::int64_t first = 0; first < head.query_count; first += rows) {
    const std::int64_t count = least(rows, head.query_count - first);
    probabilities(head, first, count, transposed_keys, scores);
    product({scores, room, 1}, count, head.key_count, values, head.width, {out + first * head.query_stride, head.query_stride, 1.0F, false},
            false);
  }
}

/// p ∘ (dp - Σ p dp) of a row, into dp.
void softmax_gradient(const float* p, float* dp, std::int64_t room) {
  Vec sum{};
  for (std::int64_t j = 0; j < room; j += lanes) sum += load(p + j) * load(dp + j);
  const float mean = sum_of(sum);
  for (std::int64_t j = 0; j < room; j += lanes) store(dp + j, load(p + j) * (load(dp + j) - mean));
}

void backward(const AttentionHead& head, const AttentionGradients& gradients, float* scratch) {
  const std::int64_t keys = head.key_count, width = head.width, room = padded(keys), rows = block_rows(head);
  const bool scores_wanted = gradients.queries || gradients.keys || gradients.bias;
  float* transposed_keys = scratch;
  float* transposed_values = transposed_keys + width * room;
  float* key_rows = transposed_values + width * room;
  float* p = key_rows + keys * padded(width);
  float* dp = p + rows * room;
  float* out_rows = dp + rows * room;
  float* query_rows = out_rows + rows * padded(width);
  pack_columns(head.keys, head.key_stride, width, keys, transposed_keys);
  if (scores_wanted) pack_columns(head.values, head.key_stride, width, keys, transposed_values);
  if (gradients.queries) pack_rows(head.keys, head.key_stride, keys, width, key_rows);
  for (std::int64_t first = 0; first < head.query_count; first += rows) {
    const std::int64_t count = least(rows, head.query_count - first);
    const float* out = gradients.out + first * head.query_stride;
    probabilities(head, first, count, transposed_keys, p);
    if (gradients.values) {
      pack_rows(out, head.query_stride, count, width, out_rows);
      product({p, 1, room}, keys, count, out_rows, width, {gradients.values, head.key_stride, 1.0F, first > 0}, false);
    }
    if (!scores_wanted) continue;
    product({out, head.query_stride, 1}, count, width, transposed_values, keys, {dp, room, 1.0F, false}, true);
    for (std::int64_t i = 0; i < count; ++i) softmax_gradient(p + i * room, dp + i * room, room);
    if (gradients.bias)
      for (std::int64_t i = 0; i < count; ++i) __builtin_memcpy(gradients.bias + (first + i) * keys, dp + i * room, sizeof(float) * keys);
    if (gradients.queries)
      product({dp, room, 1}, count, keys, key_rows, width,
              {gradients.queries + first * head.query_stride, head.query_stride, head.scale, false}, false);
    if (gradients.keys) {
      pack_rows(head.queries + first * head.query_stride, head.query_stride, count, width, query_rows);
      product({dp, 1, room}, keys, count, query_rows, width, {gradients.keys, head.key_stride, head.scale, first > 0}, false);
    }
  }
}

}  // namespace
}  // namespace mmtune::nn
// NOLINTEND(misc-definitions-in-headers)
