#include "report/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"

namespace mmtune::report {

namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

double weight_of(Weights weights, std::size_t i) {
  return weights.empty() ? 1.0 : static_cast<double>(weights[i]);
}

double ratio(double numerator, double denominator) {
  return denominator == 0 ? nan : numerator / denominator;
}

double f1_of(double hits, double predicted, double actual) {
  return predicted + actual == 0 ? 0.0 : 2 * hits / (predicted + actual);
}

/// xoshiro256++ (Blackman, Vigna), seeded by SplitMix64: small, fast, and the same on every machine.
class Random {
 public:
  explicit Random(std::uint64_t seed) {
    for (std::uint64_t& word : state_) {
      seed += 0x9e3779b97f4a7c15U;
      std::uint64_t z = seed;
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
      word = z ^ (z >> 31);
    }
  }

  /// Uniform in [0, n) for n < 2^32, by the high half of a product; the bias is below n / 2^32.
  std::uint32_t below(std::uint32_t n) { return static_cast<std::uint32_t>(((next() >> 32) * n) >> 32); }

 private:
  static std::uint64_t rotate(std::uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

  std::uint64_t next() {
    const std::uint64_t result = rotate(state_[0] + state_[3], 23) + state_[0];
    const std::uint64_t t = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= t;
    state_[3] = rotate(state_[3], 45);
    return result;
  }

  std::uint64_t state_[4];
};

/// The q-quantile of sorted values with linear interpolation between neighbours.
double quantile(const std::vector<double>& sorted, double q) {
  if (sorted.empty()) return nan;
  const double position = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (position - static_cast<double>(below));
}

/// True where every label of the example is decided right.
bool exact(const Scores& scores, std::size_t example, double threshold) {
  for (std::size_t c = 0; c < scores.classes; ++c) {
    const std::size_t at = example * scores.classes + c;
    if ((scores.scores[at] >= threshold) != (scores.truth_bits[at] != 0)) return false;
  }
  return true;
}

/// Of values without the NaN among them.
Interval percentiles(std::vector<double> values, double level) {
  std::erase_if(values, [](double value) { return std::isnan(value); });
  std::sort(values.begin(), values.end());
  return {quantile(values, (1 - level) / 2), quantile(values, (1 + level) / 2)};
}

/// Confidence and correctness of every example's top prediction, found once for all bootstrap replicates.
struct TopPrediction {
  explicit TopPrediction(const Scores& scores) {
    const std::vector<std::int64_t> predicted = argmax(scores);
    for (std::size_t i = 0; i < scores.examples; ++i) {
      confidence.push_back(scores.row(i)[static_cast<std::size_t>(predicted[i])]);
      right.push_back(predicted[i] == scores.truth[i] ? 1 : 0);
    }
  }

  double calibration_error(std::size_t bins, Weights weights) const {
    std::vector<double> gap(bins, 0);
    double all = 0;
    for (std::size_t i = 0; i < confidence.size(); ++i) {
      const double w = weight_of(weights, i);
      if (w == 0) continue;
      // Bins are (a, b], so that a confidence of exactly 1 has its place.
      const double position = std::ceil(confidence[i] * static_cast<double>(bins)) - 1;
      if (std::isnan(position)) return nan;
      gap[static_cast<std::size_t>(std::clamp(position, 0.0, static_cast<double>(bins - 1)))] += w * (confidence[i] - right[i]);
      all += w;
    }
    double sum = 0;
    for (const double one : gap) sum += std::abs(one);
    return ratio(sum, all);
  }

  std::vector<double> confidence;
  std::vector<double> right;
};

void check(const Scores& scores) {
  MMTUNE_ASSERT(scores.scores.size() == scores.examples * scores.classes);
  MMTUNE_ASSERT(scores.multi_label() ? scores.truth_bits.size() == scores.scores.size() : scores.truth.size() == scores.examples);
  MMTUNE_ASSERT(scores.losses.empty() || scores.losses.size() == scores.examples);
}

}  // namespace

std::vector<std::int64_t> argmax(const Scores& scores) {
  std::vector<std::int64_t> result(scores.examples, 0);
  for (std::size_t i = 0; i < scores.examples; ++i) {
    const auto row = scores.row(i);
    std::size_t best = 0;
    for (std::size_t c = 1; c < row.size(); ++c) {
      if (row[c] > row[best] || (std::isnan(row[best]) && !std::isnan(row[c]))) best = c;
    }
    result[i] = static_cast<std::int64_t>(best);
  }
  return result;
}

double accuracy(std::span<const std::int64_t> predicted, std::span<const std::int64_t> truth, Weights weights) {
  MMTUNE_ASSERT(predicted.size() == truth.size());
  double right = 0, all = 0;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    const double w = weight_of(weights, i);
    all += w;
    if (predicted[i] == truth[i]) right += w;
  }
  return ratio(right, all);
}

double top_k_accuracy(const Scores& scores, std::size_t k, Weights weights) {
  double right = 0, all = 0;
  for (std::size_t i = 0; i < scores.examples; ++i) {
    const double w = weight_of(weights, i);
    all += w;
    const auto row = scores.row(i);
    const auto target = static_cast<std::size_t>(scores.truth[i]);
    if (std::isnan(row[target])) continue;
    std::size_t before = 0;
    for (std::size_t c = 0; c < row.size(); ++c) before += (row[c] > row[target] || (row[c] == row[target] && c < target)) ? 1 : 0;
    if (before < k) right += w;
  }
  return ratio(right, all);
}

std::vector<std::uint64_t> confusion_matrix(std::span<const std::int64_t> predicted, std::span<const std::int64_t> truth,
                                            std::size_t classes, Weights weights) {
  MMTUNE_ASSERT(predicted.size() == truth.size());
  std::vector<std::uint64_t> counts(classes * classes, 0);
  for (std::size_t i = 0; i < truth.size(); ++i) {
    const auto t = static_cast<std::size_t>(truth[i]), p = static_cast<std::size_t>(predicted[i]);
    MMTUNE_ASSERT(t < classes && p < classes);
    counts[t * classes + p] += weights.empty() ? 1 : weights[i];
  }
  return counts;
}

F1 f1_single(std::span<const std::uint64_t> confusion, std::size_t classes) {
  MMTUNE_ASSERT(confusion.size() == classes * classes);
  std::vector<double> actual(classes, 0), predicted(classes, 0);
  double all = 0, right = 0;
  for (std::size_t t = 0; t < classes; ++t) {
    for (std::size_t p = 0; p < classes; ++p) {
      const auto count = static_cast<double>(confusion[t * classes + p]);
      actual[t] += count;
      predicted[p] += count;
      all += count;
    }
    right += static_cast<double>(confusion[t * classes + t]);
  }
  F1 f1;
  double sum = 0, present = 0;
  for (std::size_t c = 0; c < classes; ++c) {
    f1.per_class.push_back(f1_of(static_cast<double>(confusion[c * classes + c]), predicted[c], actual[c]));
    if (actual[c] + predicted[c] == 0) continue;
    sum += f1.per_class.back();
    present += 1;
  }
  f1.macro = ratio(sum, present);
  f1.micro = ratio(right, all);
  return f1;
}

F1 f1_multi(const Scores& scores, double threshold, Weights weights) {
  std::vector<double> hits(scores.classes, 0), predicted(scores.classes, 0), actual(scores.classes, 0);
  double examples = 0;
  for (std::size_t i = 0; i < scores.examples; ++i) {
    const double w = weight_of(weights, i);
    examples += w;
    if (w == 0) continue;
    for (std::size_t c = 0; c < scores.classes; ++c) {
      const bool said = scores.scores[i * scores.classes + c] >= threshold;
      const bool is = scores.truth_bits[i * scores.classes + c] != 0;
      hits[c] += said && is ? w : 0;
      predicted[c] += said ? w : 0;
      actual[c] += is ? w : 0;
    }
  }
  F1 f1;
  for (std::size_t c = 0; c < scores.classes; ++c) f1.per_class.push_back(f1_of(hits[c], predicted[c], actual[c]));
  const auto total = [](const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); };
  f1.macro = examples == 0 ? nan : ratio(total(f1.per_class), static_cast<double>(scores.classes));
  f1.micro = examples == 0 ? nan : f1_of(total(hits), total(predicted), total(actual));
  return f1;
}

RocAuc::RocAuc(const Scores& scores) : examples_(scores.examples) {
  const bool binary = !scores.multi_label() && scores.classes == 2;
  for (std::size_t c = binary ? 1 : 0; c < scores.classes; ++c) {
    const auto score = [&](std::uint32_t i) {
      const double value = scores.scores[i * scores.classes + c];
      return std::isnan(value) ? -std::numeric_limits<double>::infinity() : value;
    };
    Column column;
    column.order.resize(examples_);
    std::iota(column.order.begin(), column.order.end(), 0U);
    std::stable_sort(column.order.begin(), column.order.end(), [&](std::uint32_t a, std::uint32_t b) { return score(a) < score(b); });
    std::size_t positives = 0;
    for (std::size_t i = 0; i < examples_; ++i) {
      const std::uint32_t example = column.order[i];
      const bool positive = scores.multi_label() ? scores.truth_bits[example * scores.classes + c] != 0
                                                 : scores.truth[example] == static_cast<std::int64_t>(c);
      column.positive.push_back(positive ? 1 : 0);
      column.new_value.push_back(i > 0 && score(column.order[i - 1]) < score(example) ? 1 : 0);
      positives += positive ? 1 : 0;
    }
    if (positives > 0 && positives < examples_) columns_.push_back(std::move(column));
  }
}

double RocAuc::operator()(Weights weights) const {
  double sum = 0, counted = 0;
  for (const Column& column : columns_) {
    // Pairs (positive, negative) by one ascending sweep: negatives strictly below, plus half of those of the same score.
    double below = 0, tied_positive = 0, tied_negative = 0, pairs = 0, positives = 0;
    for (std::size_t i = 0; i < examples_; ++i) {
      if (column.new_value[i] != 0) {
        pairs += tied_positive * (below + 0.5 * tied_negative);
        below += tied_negative;
        tied_positive = tied_negative = 0;
      }
      const double w = weight_of(weights, column.order[i]);
      if (column.positive[i] != 0) {
        tied_positive += w;
        positives += w;
      } else {
        tied_negative += w;
      }
    }
    pairs += tied_positive * (below + 0.5 * tied_negative);
    const double negatives = below + tied_negative;
    if (positives == 0 || negatives == 0) continue;
    sum += pairs / (positives * negatives);
    counted += 1;
  }
  return ratio(sum, counted);
}

double expected_calibration_error(const Scores& scores, std::size_t bins, Weights weights) {
  const TopPrediction top(scores);
  return top.calibration_error(bins, weights);
}

double mean(std::span<const double> values, Weights weights) {
  double sum = 0, all = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double w = weight_of(weights, i);
    if (w == 0) continue;
    sum += w * values[i];
    all += w;
  }
  return ratio(sum, all);
}

std::vector<Interval> bootstrap(std::size_t examples, std::span<const Statistic> statistics, const BootstrapOptions& options) {
  MMTUNE_ASSERT(examples <= std::numeric_limits<std::uint32_t>::max());
  Random random(options.seed);
  std::vector<std::vector<double>> values(statistics.size());
  std::vector<std::uint32_t> weights(examples);
  for (std::size_t r = 0; examples > 0 && r < options.replicates; ++r) {
    std::fill(weights.begin(), weights.end(), 0U);
    for (std::size_t i = 0; i < examples; ++i) ++weights[random.below(static_cast<std::uint32_t>(examples))];
    for (std::size_t s = 0; s < statistics.size(); ++s) {
      values[s].push_back(statistics[s](weights));
    }
  }
  std::vector<Interval> intervals;
  for (auto& sample : values) {
    intervals.push_back(percentiles(sample, options.level));
    if (options.keep) intervals.back().replicates = std::move(sample);
  }
  return intervals;
}

Interval difference(const Interval& one, const Interval& other, double level) {
  MMTUNE_ASSERT(one.replicates.size() == other.replicates.size());
  std::vector<double> values;
  for (std::size_t r = 0; r < one.replicates.size(); ++r) values.push_back(one.replicates[r] - other.replicates[r]);
  return percentiles(values, level);
}

std::vector<Metric> evaluate(const Scores& scores, const EvaluateOptions& options) {
  check(scores);
  std::vector<std::string> names;
  std::vector<Statistic> statistics;
  const auto add = [&](std::string name, Statistic statistic) {
    names.push_back(std::move(name));
    statistics.push_back(std::move(statistic));
  };

  std::vector<std::int64_t> predicted;
  std::vector<double> right, right_in_five;  // per example, so that a replicate is one weighted mean
  std::optional<TopPrediction> top;
  const RocAuc auc(scores);
  if (scores.multi_label()) {
    for (std::size_t i = 0; i < scores.examples; ++i) right.push_back(exact(scores, i, options.threshold) ? 1 : 0);
    add("exact_match", [&](Weights w) { return mean(right, w); });
    add("macro_f1", [&](Weights w) { return f1_multi(scores, options.threshold, w).macro; });
    add("micro_f1", [&](Weights w) { return f1_multi(scores, options.threshold, w).micro; });
  } else {
    predicted = argmax(scores);
    top.emplace(scores);
    right = top->right;
    for (std::size_t i = 0; i < scores.examples; ++i) {
      Scores one{1, scores.classes, {scores.row(i).begin(), scores.row(i).end()}, {scores.truth[i]}, {}, {}};
      right_in_five.push_back(top_k_accuracy(one, 5));
    }
    add("accuracy", [&](Weights w) { return mean(right, w); });
    if (scores.classes > 5) add("top5", [&](Weights w) { return mean(right_in_five, w); });
    const auto f1 = [&](Weights w) { return f1_single(confusion_matrix(predicted, scores.truth, scores.classes, w), scores.classes); };
    add("macro_f1", [f1](Weights w) { return f1(w).macro; });
    add("micro_f1", [f1](Weights w) { return f1(w).micro; });
    add("ece", [&](Weights w) { return top->calibration_error(15, w); });
  }
  if (!std::isnan(auc())) add("auc", [&](Weights w) { return auc(w); });
  if (!scores.losses.empty()) add("loss", [&](Weights w) { return mean(scores.losses, w); });

  std::vector<Interval> intervals;
  if (options.bootstrap) intervals = bootstrap(scores.examples, statistics, *options.bootstrap);
  std::vector<Metric> metrics;
  for (std::size_t s = 0; s < statistics.size(); ++s) {
    metrics.push_back({names[s], statistics[s]({}), std::nullopt, higher_is_better(names[s])});
    if (options.bootstrap) metrics.back().interval = intervals[s];
  }
  return metrics;
}

std::vector<std::string> metric_names(bool multi_label) {
  if (multi_label) return {"exact_match", "macro_f1", "micro_f1", "auc", "loss"};
  return {"accuracy", "top5", "macro_f1", "micro_f1", "ece", "auc", "loss"};
}

bool higher_is_better(std::string_view metric) {
  return metric != "loss" && metric != "ece";
}

}  // namespace mmtune::report
