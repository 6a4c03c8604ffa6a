#pragma once
// How a task is put into words for a model that writes: the question, the answer to learn, the list of answers to choose from, and back.

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "backbones/candidate_trie.h"
#include "backbones/sequence_model.h"
#include "data/example.h"
#include "data/vqa_answers.h"
#include "text/tokenizer.h"
#include "train/batch_reader.h"
#include "train/grounding.h"
#include "train/recipe.h"

namespace mmtune::train {

/// What an answer is: free words (caption), a box in the picture (ground), a label, or a short answer that annotators gave.
enum class AnswerKind { words, box, label, annotators };

/// A text as OFA was trained on: lower case, without marks in front, spaces for hyphens and slashes, "person" for "<person>", at most
/// `words` words.
std::string clean_words(std::string_view text, std::int64_t words);
/// The same without any punctuation: captions that are learned.
std::string without_punctuation(std::string_view text);

class Wording {
 public:
  struct Setup {
    std::string task;
    SequenceSection section;
    AnswerKind kind = AnswerKind::words;
    std::vector<std::string> classes;                ///< labels, or the list of answers; empty: no list
    std::shared_ptr<const data::AnswerSpace> space;  ///< kind annotators with a list
    std::shared_ptr<const text::Tokenizer> tokenizer;
    backbones::SequenceTokens tokens;
    std::int64_t vocabulary = 0, longest = 0;
    std::string lead = " ";                ///< stands in front of everything that is read
    std::string answer_lead = " ";         ///< likewise, that is said
    InputReader::Words source_words = {};  ///< of a question; unset: the tokenizer's own form
  };
  /// Throws UsageError where a list is needed and there is none; Error where the vocabulary lacks places, or an answer of the list has no
  /// tokens.
  explicit Wording(Setup setup);

  const backbones::SequenceTokens& tokens() const { return setup_.tokens; }
  const SequenceSection& section() const { return setup_.section; }
  AnswerKind kind() const { return setup_.kind; }
  bool ranks() const { return ranks_; }
  const InputReader::Words& source_words() const { return setup_.source_words; }

  std::string source(const data::Example& example) const;
  /// Throws Error naming the example where it has nothing to learn, or more than the decoder can read.
  Taught taught(const data::Example& example) const;
  /// What the decoder reads before it answers.
  std::vector<std::int64_t> prompt(const data::Example& example) const;
  /// What may follow at each place that is learned [N, V], where answers of the list are learned among themselves.
  std::vector<std::int64_t> allowed(const std::vector<std::int64_t>& answer_so_far) const;

  /// The list of answers as tokens; null where there is none.
  const backbones::CandidateTrie* list() const { return trie_ ? &*trie_ : nullptr; }
  const std::vector<std::string>& classes() const { return setup_.classes; }
  /// The words of tokens that were written, without their end.
  std::string words_of(std::span<const std::int64_t> tokens) const;
  /// The class that words are; nothing where they are none.
  std::optional<std::int64_t> class_of(std::string_view words) const;
  /// The box that was written, in the picture's pixels; nothing where the tokens are no four places.
  std::optional<BoxCorners> box_of(std::span<const std::int64_t> tokens, const data::Example& example) const;
  /// The example's own box, "left,top,right,bottom" in its answer.
  static BoxCorners true_box(const data::Example& example);
  /// Index into the list, and the share of annotators who gave it; nothing where none of the example's answers is listed.
  std::optional<std::pair<std::string, double>> best_answer(const data::Example& example) const;

 private:
  std::vector<std::int64_t> encode(std::string_view text) const;
  std::string answer_words(const std::string& text) const;
  std::vector<std::int64_t> answer_tokens(const data::Example& example, double& confidence) const;
  std::pair<double, double> picture_size(const data::Example& example) const;

  Setup setup_;
  bool ranks_ = false;
  std::int64_t first_bin_ = 0;
  std::optional<backbones::CandidateTrie> trie_;
  std::map<std::string, std::int64_t, std::less<>> class_of_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::pair<double, double>> sizes_;
};

}  // namespace mmtune::train
