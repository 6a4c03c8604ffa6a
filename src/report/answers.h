#pragma once
// Metrics of what a language model answers: candidates ranked by their scores, yes or no, counts.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "report/metrics.h"

namespace mmtune::report {

/// Candidates of N examples by their scores (log-likelihoods; higher is better), and which is right.
struct CandidateSummary {
  double top1 = 0;             ///< share of examples whose best candidate is right; the first of equals counts as best
  std::optional<double> top5;  ///< only with more than five candidates
  double mean_score = 0;       ///< over all candidates of all examples
  double mean_truth_score = 0;
};
/// `scores.truth` holds the right candidate of each example. 0 examples: NaN.
CandidateSummary summarise_candidates(const Scores& scores, Weights weights = {});

/// Yes or no, where "yes" is the positive answer. Ratios of nothing are 0.
struct YesNo {
  std::uint64_t true_yes = 0, false_yes = 0, false_no = 0, true_no = 0;
  double accuracy = 0, precision = 0, recall = 0, f1 = 0;
  double yes_ratio = 0;  ///< share of examples that are answered with yes
};
YesNo summarise_yes_no(std::span<const std::uint8_t> answered_yes, std::span<const std::uint8_t> truly_yes, Weights weights = {});

/// Area under the ROC curve of score(yes) − score(no), ties counting half; NaN without both kinds.
double yes_no_auc(std::span<const double> yes_minus_no, std::span<const std::uint8_t> truly_yes);

/// Whether an answer in words says yes, as POPE's evaluation reads it: its first sentence has none of the words no, No and not.
bool says_yes(std::string_view answer);

/// An answer to a counting question as TVP's evaluation of CLEVR reads it: letters, digits and white space alone, lower case, number words
/// up to ten as digits, no articles, apostrophes put back into contractions.
std::string counting_answer(std::string_view answer);
/// Whether the normal form has `truth` anywhere in it: an answer "13" counts for "3", as in the released code.
bool counts_right(std::string_view answer, std::string_view truth);

}  // namespace mmtune::report
