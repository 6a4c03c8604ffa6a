#include "report/answers.h"

#include <sstream>

#include "core/error.h"
#include "data/vqa_answers.h"

namespace mmtune::report {

CandidateSummary summarise_candidates(const Scores& scores, Weights weights) {
  MMTUNE_ASSERT(scores.truth.size() == scores.examples && scores.scores.size() == scores.examples * scores.classes);
  CandidateSummary summary;
  summary.top1 = accuracy(argmax(scores), scores.truth, weights);
  if (scores.classes > 5) summary.top5 = top_k_accuracy(scores, 5, weights);
  std::vector<double> all, truth;
  for (std::size_t i = 0; i < scores.examples; ++i) {
    const auto row = scores.row(i);
    double sum = 0;
    for (const double score : row) sum += score;
    all.push_back(sum / static_cast<double>(scores.classes));
    truth.push_back(row[static_cast<std::size_t>(scores.truth[i])]);
  }
  summary.mean_score = mean(all, weights);
  summary.mean_truth_score = mean(truth, weights);
  return summary;
}

YesNo summarise_yes_no(std::span<const std::uint8_t> answered_yes, std::span<const std::uint8_t> truly_yes, Weights weights) {
  MMTUNE_ASSERT(answered_yes.size() == truly_yes.size());
  YesNo counts;
  for (std::size_t i = 0; i < answered_yes.size(); ++i) {
    const bool yes = answered_yes[i] != 0, truth = truly_yes[i] != 0;
    (yes ? truth ? counts.true_yes : counts.false_yes : truth ? counts.false_no : counts.true_no) += weights.empty() ? 1 : weights[i];
  }
  const auto share = [](std::uint64_t part, std::uint64_t whole) {
    return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
  };
  const std::uint64_t all = counts.true_yes + counts.false_yes + counts.false_no + counts.true_no;
  counts.accuracy = share(counts.true_yes + counts.true_no, all);
  counts.precision = share(counts.true_yes, counts.true_yes + counts.false_yes);
  counts.recall = share(counts.true_yes, counts.true_yes + counts.false_no);
  counts.f1 = share(2 * counts.true_yes, 2 * counts.true_yes + counts.false_yes + counts.false_no);
  counts.yes_ratio = share(counts.true_yes + counts.false_yes, all);
  return counts;
}

double yes_no_auc(std::span<const double> yes_minus_no, std::span<const std::uint8_t> truly_yes) {
  MMTUNE_ASSERT(yes_minus_no.size() == truly_yes.size());
  Scores scores{.examples = truly_yes.size(), .classes = 2, .scores = {}, .truth = {}, .truth_bits = {}, .losses = {}};
  for (std::size_t i = 0; i < truly_yes.size(); ++i) {
    scores.scores.insert(scores.scores.end(), {-yes_minus_no[i], yes_minus_no[i]});
    scores.truth.push_back(truly_yes[i] != 0 ? 1 : 0);
  }
  return RocAuc(scores)();
}

bool says_yes(std::string_view answer) {
  std::string words(answer.substr(0, answer.find('.')));
  std::erase(words, ',');
  std::istringstream in(words);
  for (std::string word; in >> word;)
    if (word == "No" || word == "not" || word == "no") return false;
  return true;
}

std::string counting_answer(std::string_view answer) {
  std::string kept;
  for (const char c : answer) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (letter) kept += c;
    if (c == ' ' || (c >= '\t' && c <= '\r')) kept += ' ';
  }
  return data::normal_answer(kept);  // without marks, only its words are left to change
}

bool counts_right(std::string_view answer, std::string_view truth) {
  return counting_answer(answer).find(truth) != std::string::npos;
}

}  // namespace mmtune::report
