#include "report/captions.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "core/error.h"

namespace mmtune::report {

namespace {

constexpr std::size_t kOrders = 4;
using Counts = std::unordered_map<std::string, double>;

/// How often each run of n words stands there, by n − 1; words are parted by a byte that no token holds.
std::array<Counts, kOrders> ngrams(const std::vector<std::string>& words) {
  std::array<Counts, kOrders> counts;
  for (std::size_t n = 0; n < kOrders; ++n) {
    for (std::size_t begin = 0; begin + n < words.size(); ++begin) {
      std::string key;
      for (std::size_t i = begin; i <= begin + n; ++i) (key += words[i]) += '\0';
      ++counts[n][key];
    }
  }
  return counts;
}

/// The vectors of a caption: counts times how rare their n-grams are.
struct Vector {
  std::array<Counts, kOrders> weights;
  std::array<double, kOrders> norms{};
  double length = 0;  ///< as the evaluation counts it: pairs of neighbours
};

class Cider {
 public:
  explicit Cider(std::span<const Captions> captions) : log_count_(std::log(static_cast<double>(captions.size()))) {
    for (const Captions& one : captions) {
      std::array<Counts, kOrders> seen;
      for (const auto& reference : one.references) {
        const auto counts = ngrams(reference);
        for (std::size_t n = 0; n < kOrders; ++n)
          for (const auto& [key, count] : counts[n]) seen[n][key] = 1;
      }
      for (std::size_t n = 0; n < kOrders; ++n)
        for (const auto& [key, once] : seen[n]) documents_[n][key] += once;
    }
  }

  Vector vector_of(const std::vector<std::string>& words) const {
    Vector vector;
    const auto counts = ngrams(words);
    for (std::size_t n = 0; n < kOrders; ++n) {
      for (const auto& [key, count] : counts[n]) {
        const auto found = documents_[n].find(key);
        const double weight = count * (log_count_ - std::log(found == documents_[n].end() ? 1.0 : found->second));
        vector.weights[n][key] = weight;
        vector.norms[n] += weight * weight;
        if (n == 1) vector.length += count;
      }
      vector.norms[n] = std::sqrt(vector.norms[n]);
    }
    return vector;
  }

  /// The mean over the references of the mean over n of the similarity.
  template <typename Similarity>
  double score(const Captions& one, Similarity similarity) const {
    const Vector candidate = vector_of(one.candidate);
    double sum = 0;
    for (const auto& words : one.references) {
      const Vector reference = vector_of(words);
      for (std::size_t n = 0; n < kOrders; ++n) sum += similarity(candidate, reference, n);
    }
    return 10.0 * sum / static_cast<double>(kOrders) / static_cast<double>(one.references.size());
  }

 private:
  double log_count_;
  std::array<Counts, kOrders> documents_;
};

/// The product over common n-grams, over both norms.
template <typename Weight>
double product(const Vector& candidate, const Vector& reference, std::size_t n, Weight weight) {
  double sum = 0;
  for (const auto& [key, mine] : candidate.weights[n]) {
    const auto found = reference.weights[n].find(key);
    if (found != reference.weights[n].end()) sum += weight(mine, found->second) * found->second;
  }
  const double norms = candidate.norms[n] * reference.norms[n];
  return norms == 0 ? 0 : sum / norms;
}

void check(std::span<const Captions> captions) {
  for (const Captions& one : captions) MMTUNE_ASSERT(!one.references.empty());
}

}  // namespace

BleuCounts bleu_counts(const Captions& one) {
  check({&one, 1});
  BleuCounts own;
  own.candidate_length = static_cast<double>(one.candidate.size());
  own.reference_length = static_cast<double>(one.references.front().size());
  std::array<Counts, kOrders> most;
  for (const auto& reference : one.references) {
    const auto length = static_cast<double>(reference.size());
    const double distance = std::abs(length - own.candidate_length), best = std::abs(own.reference_length - own.candidate_length);
    if (distance < best || (distance == best && length < own.reference_length)) own.reference_length = length;
    const auto counts = ngrams(reference);
    for (std::size_t n = 0; n < kOrders; ++n)
      for (const auto& [key, count] : counts[n]) most[n][key] = std::max(most[n][key], count);
  }
  const auto counts = ngrams(one.candidate);
  for (std::size_t n = 0; n < kOrders; ++n) {
    own.guessed[n] = std::max(0.0, own.candidate_length - static_cast<double>(n));
    for (const auto& [key, count] : counts[n]) {
      const auto found = most[n].find(key);
      if (found != most[n].end()) own.right[n] += std::min(count, found->second);
    }
  }
  return own;
}

std::array<double, kOrders> bleu(std::span<const BleuCounts> captions, Weights weights) {
  MMTUNE_ASSERT(weights.empty() || weights.size() == captions.size());
  std::array<double, kOrders> scores{};
  if (captions.empty()) {
    scores.fill(std::numeric_limits<double>::quiet_NaN());
    return scores;
  }
  constexpr double kTiny = 1e-15, kSmall = 1e-9;  // of the evaluation, against divisions by zero
  BleuCounts all;
  for (std::size_t i = 0; i < captions.size(); ++i) {
    const double times = weights.empty() ? 1.0 : weights[i];
    all.candidate_length += times * captions[i].candidate_length;
    all.reference_length += times * captions[i].reference_length;
    for (std::size_t n = 0; n < kOrders; ++n) {
      all.guessed[n] += times * captions[i].guessed[n];
      all.right[n] += times * captions[i].right[n];
    }
  }
  double product = 1;
  const double ratio = (all.candidate_length + kTiny) / (all.reference_length + kSmall);
  for (std::size_t n = 0; n < kOrders; ++n) {
    product *= (all.right[n] + kTiny) / (all.guessed[n] + kSmall);
    scores[n] = std::pow(product, 1.0 / static_cast<double>(n + 1)) * (ratio < 1 ? std::exp(1 - 1 / ratio) : 1.0);
  }
  return scores;
}

std::array<double, kOrders> bleu(std::span<const Captions> captions) {
  std::vector<BleuCounts> counts;
  for (const Captions& one : captions) counts.push_back(bleu_counts(one));
  return bleu(counts);
}

std::vector<double> cider_d(std::span<const Captions> captions) {
  check(captions);
  const Cider set(captions);
  std::vector<double> scores;
  for (const Captions& one : captions) {
    scores.push_back(set.score(one, [](const Vector& candidate, const Vector& reference, std::size_t n) {
      constexpr double kWidth = 6;
      const double difference = candidate.length - reference.length;
      const double clipped = product(candidate, reference, n, [](double mine, double theirs) { return std::min(mine, theirs); });
      return clipped * std::exp(-difference * difference / (2 * kWidth * kWidth));
    }));
  }
  return scores;
}

std::vector<double> cider(std::span<const Captions> captions) {
  check(captions);
  const Cider set(captions);
  std::vector<double> scores;
  for (const Captions& one : captions) {
    scores.push_back(set.score(one, [](const Vector& candidate, const Vector& reference, std::size_t n) {
      return product(candidate, reference, n, [](double mine, double) { return mine; });
    }));
  }
  return scores;
}

}  // namespace mmtune::report
