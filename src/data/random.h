#pragma once
// Random choices about data: the same on every machine, compiler and standard library.

#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

namespace mmtune::data {

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014). std::shuffle and the distributions of
/// <random> are left alone because their results differ between standard libraries.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    state_ += 0x9e3779b97f4a7c15ULL;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }

  /// Uniform in [0, n), n > 0: draws below 2^64 mod n are rejected, so that every value is equally likely.
  std::uint64_t below(std::uint64_t n) {
    const std::uint64_t threshold = (0 - n) % n;
    for (;;) {
      const std::uint64_t draw = next();
      if (draw >= threshold) return draw % n;
    }
  }

  /// Uniform in [0, 1).
  double share() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

 private:
  std::uint64_t state_;
};

/// A random order of `items`. The first k of the result depend on the first k draws only, so a prefix is a sample without replacement.
template <class T>
void shuffle(std::vector<T>& items, Random& random) {
  for (std::size_t i = 0; i + 1 < items.size(); ++i) {
    std::swap(items[i], items[i + static_cast<std::size_t>(random.below(items.size() - i))]);
  }
}

/// A random order of 0 … n−1.
inline std::vector<std::int64_t> permutation(std::int64_t n, std::uint64_t seed) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  Random random(seed);
  shuffle(order, random);
  return order;
}

}  // namespace mmtune::data
