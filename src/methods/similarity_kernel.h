#pragma once
// The hot loop of comparing task embeddings: one pass over two arrays.

#include <cstdint>

namespace mmtune::methods {

struct SimilaritySums {
  double uv = 0, uu = 0, vv = 0;  ///< of u = a / (a + b + epsilon) and v = b / (a + b + epsilon)
  double ab = 0, aa = 0, bb = 0;  ///< of the arrays themselves
};
/// Numbers that are not negative.
SimilaritySums similarity_sums(const float* a, const float* b, std::int64_t count, float epsilon);

}  // namespace mmtune::methods
