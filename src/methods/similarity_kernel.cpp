// Compiled with -O3 (CMakeLists.txt): lanes that the compiler can put into vector registers, and sums that become double before float32
// could lose anything of them.

#include "methods/similarity_kernel.h"

#include <algorithm>

namespace mmtune::methods {

namespace {

constexpr int lanes = 16;
/// Squares of Fisher entries are far below the smallest float: they are scaled up in double, in a loop of their own.
constexpr int cosine_lanes = 8;

void add_products(const float* a, const float* b, std::int64_t count, SimilaritySums& sums) {
  double ab[cosine_lanes] = {}, aa[cosine_lanes] = {}, bb[cosine_lanes] = {};
  std::int64_t i = 0;
  for (; i + cosine_lanes <= count; i += cosine_lanes) {
    for (int l = 0; l < cosine_lanes; ++l) {
      const double x = a[i + l], y = b[i + l];
      ab[l] += x * y;
      aa[l] += x * x;
      bb[l] += y * y;
    }
  }
  for (; i < count; ++i) {
    const double x = a[i], y = b[i];
    ab[0] += x * y;
    aa[0] += x * x;
    bb[0] += y * y;
  }
  for (int l = 0; l < cosine_lanes; ++l) {
    sums.ab += ab[l];
    sums.aa += aa[l];
    sums.bb += bb[l];
  }
}

}  // namespace

void add_normalised(const float* a, const float* b, std::int64_t count, float epsilon, NormalisedSums& sums) {
  float uv[lanes] = {}, uu[lanes] = {}, vv[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (int l = 0; l < lanes; ++l) {
      const float x = a[i + l], y = b[i + l];
      const float share = 1.0F / (x + y + epsilon);
      const float u = x * share, v = y * share;
      uv[l] += u * v;
      uu[l] += u * u;
      vv[l] += v * v;
    }
  }
  for (; i < count; ++i) {
    const float share = 1.0F / (a[i] + b[i] + epsilon);
    const float u = a[i] * share, v = b[i] * share;
    uv[0] += u * v;
    uu[0] += u * u;
    vv[0] += v * v;
  }
  for (int l = 0; l < lanes; ++l) {
    sums.uv += static_cast<double>(uv[l]);
    sums.uu += static_cast<double>(uu[l]);
    sums.vv += static_cast<double>(vv[l]);
  }
}

SimilaritySums similarity_sums(const float* a, const float* b, std::int64_t count, float epsilon) {
  SimilaritySums sums;
  for (std::int64_t first = 0; first < count; first += similarity_stretch) {
    const std::int64_t length = std::min(similarity_stretch, count - first);
    add_normalised(a + first, b + first, length, epsilon, sums);
    add_products(a + first, b + first, length, sums);
  }
  return sums;
}

}  // namespace mmtune::methods
