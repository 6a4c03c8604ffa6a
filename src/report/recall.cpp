#include "report/recall.h"

#include <cmath>
#include <limits>

namespace mmtune::report {

namespace {

constexpr std::int64_t depths[] = {1, 5, 10};

}  // namespace

Ranks ranks(std::span<const float> scores, std::size_t pictures, std::span<const std::int64_t> picture_of) {
  const std::size_t texts = picture_of.size();
  Ranks result;
  result.of_pictures.assign(pictures, -1);
  const auto at = [&](std::size_t picture, std::size_t text) { return scores[picture * texts + text]; };
  for (std::size_t text = 0; text < texts; ++text) {
    const auto own = static_cast<std::size_t>(picture_of[text]);
    const float score = at(own, text);
    // A score that is not a number ranks last, whatever the others are.
    const bool lost = std::isnan(score);
    std::int64_t better_pictures = 0, better_texts = 0;
    for (std::size_t i = 0; i < pictures; ++i)
      if (i != own && (lost || at(i, text) > score || (at(i, text) == score && i < own))) ++better_pictures;
    for (std::size_t t = 0; t < texts; ++t)
      if (t != text && (lost || at(own, t) > score || (at(own, t) == score && t < text))) ++better_texts;
    result.of_texts.push_back(better_pictures);
    std::int64_t& best = result.of_pictures[own];
    if (best < 0 || better_texts < best) best = better_texts;
  }
  return result;
}

double recall_at(std::span<const std::int64_t> ranks, std::int64_t k, Weights weights) {
  double found = 0, all = 0;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    if (ranks[i] < 0) continue;
    const double weight = weights.empty() ? 1.0 : static_cast<double>(weights[i]);
    all += weight;
    if (ranks[i] < k) found += weight;
  }
  return all > 0 ? found / all : std::numeric_limits<double>::quiet_NaN();
}

std::vector<Metric> recalls(const Ranks& ranks, const std::optional<BootstrapOptions>& bootstrap) {
  std::vector<Metric> metrics = {{"r1", 0, std::nullopt, true}};
  const auto add = [&](const std::string& way, const std::vector<std::int64_t>& places) {
    std::vector<Statistic> statistics;
    for (const std::int64_t k : depths) statistics.emplace_back([&places, k](Weights weights) { return recall_at(places, k, weights); });
    const std::vector<Interval> intervals = bootstrap ? report::bootstrap(places.size(), statistics, *bootstrap) : std::vector<Interval>();
    for (std::size_t i = 0; i < statistics.size(); ++i) {
      metrics.push_back({way + std::to_string(depths[i]), statistics[i]({}), std::nullopt, true});
      if (bootstrap) metrics.back().interval = intervals[i];
    }
  };
  add("ir_r", ranks.of_texts);
  add("tr_r", ranks.of_pictures);
  metrics[0].value = (metrics[1].value + metrics[4].value) / 2;
  return metrics;
}

std::vector<std::string> recall_names() {
  std::vector<std::string> names;
  for (const Metric& metric : recalls({})) names.push_back(metric.name);
  return names;
}

}  // namespace mmtune::report
