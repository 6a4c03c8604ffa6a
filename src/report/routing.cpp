#include "report/routing.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <set>
#include <string_view>

#include "core/error.h"

namespace mmtune::report {

namespace {

double entropy_of(const std::map<std::int64_t, double>& counts, double total) {
  double sum = 0;
  for (const auto& [key, count] : counts)
    if (count > 0) sum -= count / total * std::log2(count / total);
  return sum;
}

constexpr std::array<std::string_view, 86> common = {
    "a",    "about", "after", "all",   "also", "an",    "and",  "any",   "are",  "as",   "at",   "be",   "been", "but", "by",
    "can",  "could", "did",   "do",    "does", "for",   "from", "had",   "has",  "have", "he",   "her",  "him",  "his", "how",
    "i",    "if",    "in",    "into",  "is",   "it",    "its",  "just",  "like", "me",   "more", "most", "my",   "no",  "not",
    "of",   "on",    "one",   "only",  "or",   "our",   "out",  "over",  "s",    "she",  "so",   "some", "such", "t",   "than",
    "that", "the",   "their", "them",  "then", "there", "they", "this",  "to",   "too",  "up",   "us",   "very", "was", "we",
    "were", "what",  "when",  "which", "who",  "will",  "with", "would", "you",  "your", "yours"};

/// Distinct words of a text.
std::set<std::string> words_of(std::string_view text) {
  std::set<std::string> words;
  std::string word;
  const auto finish = [&] {
    if (!word.empty() && std::find(common.begin(), common.end(), word) == common.end()) words.insert(word);
    word.clear();
  };
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x80 || (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9')) {
      word += c;
    } else if (byte >= 'A' && byte <= 'Z') {
      word += static_cast<char>(byte - 'A' + 'a');
    } else {
      finish();
    }
  }
  finish();
  return words;
}

}  // namespace

std::size_t RoutingScores::strongest(std::size_t example) const {
  const auto begin = scores.begin() + static_cast<std::ptrdiff_t>(example * experts);
  return static_cast<std::size_t>(std::max_element(begin, begin + static_cast<std::ptrdiff_t>(experts)) - begin);
}

RoutingStatistics routing_statistics(const RoutingScores& scores, const std::vector<std::vector<std::int64_t>>& labels) {
  MMTUNE_ASSERT(labels.size() == scores.examples());
  const std::size_t count = scores.experts;
  const auto examples = static_cast<double>(scores.examples());
  RoutingStatistics result;
  result.usage.assign(count, 0.0);
  result.chosen.assign(count, 0.0);
  std::map<std::int64_t, double> of_expert, of_label;
  std::map<std::pair<std::int64_t, std::int64_t>, double> of_both;
  double pairs = 0;
  for (std::size_t i = 0; i < scores.examples(); ++i) {
    double entropy = 0;
    for (std::size_t k = 0; k < count; ++k) {
      const double r = scores.at(i, k);
      result.usage[k] += r / examples;
      if (r > 0) entropy -= r * std::log(r);
    }
    if (count > 1) result.entropy += entropy / std::log(static_cast<double>(count)) / examples;
    const std::size_t strongest = scores.strongest(i);
    result.chosen[strongest] += 1.0 / examples;
    for (const std::int64_t label : labels[i]) {
      const auto expert = static_cast<std::int64_t>(strongest);
      ++of_expert[expert];
      ++of_label[label];
      ++of_both[{expert, label}];
      ++pairs;
    }
  }
  if (count > 1) {
    const double mean = 1.0 / static_cast<double>(count);
    double sum = 0;
    for (const double share : result.usage) sum += (share - mean) * (share - mean);
    result.variation = sum / static_cast<double>(count - 1) / (mean * mean);
  }
  for (const auto& [key, n] : of_both)
    result.information += n / pairs * std::log2(n * pairs / (of_expert[key.first] * of_label[key.second]));
  result.information = std::max(result.information, 0.0);
  const double both = entropy_of(of_expert, pairs) + entropy_of(of_label, pairs);
  if (both > 0) result.normalised = std::min(2 * result.information / both, 1.0);
  return result;
}

std::vector<std::vector<WordWeight>> distinguishing_words(const std::vector<std::string>& texts, const std::vector<std::size_t>& group,
                                                          std::size_t groups, std::size_t most) {
  MMTUNE_ASSERT(texts.size() == group.size());
  constexpr double smoothing = 0.5;
  std::vector<std::map<std::string, std::size_t>> counts(groups);
  std::map<std::string, std::size_t> all;
  std::vector<std::size_t> sizes(groups, 0);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    ++sizes[group[i]];
    for (const std::string& word : words_of(texts[i])) {
      ++counts[group[i]][word];
      ++all[word];
    }
  }
  std::vector<std::vector<WordWeight>> result(groups);
  for (std::size_t g = 0; g < groups; ++g) {
    const auto inside = static_cast<double>(sizes[g]), outside = static_cast<double>(texts.size() - sizes[g]);
    for (const auto& [word, count] : counts[g]) {
      const auto here = static_cast<double>(count), elsewhere = static_cast<double>(all[word] - count);
      const double ratio = std::log((here + smoothing) / (inside + 1)) - std::log((elsewhere + smoothing) / (outside + 1));
      if (ratio > 0) result[g].push_back({word, count, ratio * std::sqrt(here)});
    }
    std::stable_sort(result[g].begin(), result[g].end(), [](const WordWeight& a, const WordWeight& b) { return a.score > b.score; });
    if (result[g].size() > most) result[g].resize(most);
  }
  return result;
}

}  // namespace mmtune::report
