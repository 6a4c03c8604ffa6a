#pragma once
// What a router of experts does over a data set, in numbers: who is used, how decided it is, how evenly it spreads, and how much its choice
// tells about the label.

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace mmtune::report {

/// Scores of one routed block: N examples times K experts, row by row; every row sums to 1.
struct RoutingScores {
  std::string block;
  std::size_t experts = 0;
  std::vector<float> scores;

  std::size_t examples() const { return experts == 0 ? 0 : scores.size() / experts; }
  float at(std::size_t example, std::size_t expert) const { return scores[example * experts + expert]; }
  /// The expert with the largest score; the first of several.
  std::size_t strongest(std::size_t example) const;
};

struct RoutingStatistics {
  std::vector<double> usage;   ///< [K]: mean score, sums to 1
  std::vector<double> chosen;  ///< [K]: share of the examples whose strongest expert it is
  double entropy = 0;          ///< mean over the examples of -Σ r ln r, over ln K: 0 decided, 1 all alike; 0 where K = 1
  double variation = 0;        ///< squared coefficient of variation of the summed scores (unbiased variance); 0 where K = 1
  double information = 0;      ///< mutual information of strongest expert and label, in bits
  double normalised = 0;       ///< that over the mean of both entropies: 0 … 1; 0 where neither varies
};

/// `labels` holds the label indices of every example: none, one or several (each pair of an example and a label counts once).
RoutingStatistics routing_statistics(const RoutingScores& scores, const std::vector<std::vector<std::int64_t>>& labels);

/// A word and how much more often texts of a group have it than the others do.
struct WordWeight {
  std::string word;
  std::size_t count = 0;  ///< texts of the group that have it
  double score = 0;       ///< log of the ratio of smoothed shares, times the square root of the count
};

/// The words that tell the texts of each group from all others, best first, at most `most` a group. Words are runs of letters and digits
/// in lower case; common English words are left out. `group[i]` is the group of text i; texts may be empty.
std::vector<std::vector<WordWeight>> distinguishing_words(const std::vector<std::string>& texts, const std::vector<std::size_t>& group,
                                                          std::size_t groups, std::size_t most);

}  // namespace mmtune::report
