#pragma once
// The hot loops of comparing task embeddings: over two arrays.

#include <cstdint>

namespace mmtune::methods {

/// Coordinates whose sums are float32's, in many lanes; what is longer is summed in double, stretch by stretch.
constexpr std::int64_t similarity_stretch = 512;
/// What keeps shares of nothing from being undefined.
constexpr float similarity_epsilon = 1e-6F;

/// Of u = a / (a + b + epsilon) and v = b / (a + b + epsilon).
struct NormalisedSums {
  double uv = 0, uu = 0, vv = 0;
};
/// Adds at most a stretch of numbers that are not negative.
void add_normalised(const float* a, const float* b, std::int64_t count, float epsilon, NormalisedSums& sums);

struct SimilaritySums : NormalisedSums {
  double ab = 0, aa = 0, bb = 0;  ///< of the arrays themselves
};
/// Numbers that are not negative.
SimilaritySums similarity_sums(const float* a, const float* b, std::int64_t count, float epsilon);

}  // namespace mmtune::methods
