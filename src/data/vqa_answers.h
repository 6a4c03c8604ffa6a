#pragma once
// Answers to questions as VQA v2 (Goyal et al. 2017) judges them: a normal form, a soft score by how many annotators gave an answer, and
// the list of common answers that a model chooses from.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/example.h"

namespace mmtune::data {

/// The normal form of the official evaluation: lower case, no articles, numbers up to ten as digits, punctuation removed or made spaces,
/// apostrophes put back into contractions.
std::string normal_answer(std::string_view answer);

/// What an answer that `given` of `annotators` gave is worth: 0, 0.3, 0.6, 0.9 or 1 with ten annotators (the mean over all nine of them of
/// min(given / 3, 1)); with another number m, min(given / min(3, m), 1).
double soft_score(std::int64_t given, std::int64_t annotators);

struct AnswerScore {
  std::int64_t answer = 0;  ///< index into a list of answers
  double score = 0;
};

/// A list of answers and how examples score on it.
class AnswerSpace {
 public:
  /// `normalise`: annotators' answers are looked up in their normal form; the released code of ViLT looks them up as they are written.
  AnswerSpace(std::vector<std::string> answers, bool normalise);
  /// The answers that are the most common one (the first of equals) of at least `min_count` examples, in their normal form, in order of
  /// first appearance. Throws Error where no answer is that common.
  static AnswerSpace of(const Dataset& dataset, std::int64_t min_count, bool normalise);

  const std::vector<std::string>& answers() const { return answers_; }
  bool normalises() const { return normalise_; }
  /// Every listed answer that an annotator gave, by index; empty where none is listed.
  std::vector<AnswerScore> scores(const Example& example) const;
  /// The one of them that scores most, the first of equals; nothing where none is listed.
  std::optional<AnswerScore> best(const Example& example) const;

 private:
  std::vector<std::string> answers_;
  std::vector<std::pair<std::string, std::int64_t>> sorted_;
  bool normalise_;
};

}  // namespace mmtune::data
