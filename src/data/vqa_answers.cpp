#include "data/vqa_answers.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <set>
#include <sstream>
#include <unordered_map>

#include "core/error.h"

namespace mmtune::data {

namespace {

constexpr std::string_view punctuation = ";/[]\"{}()=+\\_-><@`,?!";

constexpr std::array<std::pair<std::string_view, std::string_view>, 12> numbers = {{{"none", "0"},
                                                                                    {"zero", "0"},
                                                                                    {"one", "1"},
                                                                                    {"two", "2"},
                                                                                    {"three", "3"},
                                                                                    {"four", "4"},
                                                                                    {"five", "5"},
                                                                                    {"six", "6"},
                                                                                    {"seven", "7"},
                                                                                    {"eight", "8"},
                                                                                    {"nine", "9"},
                                                                                    {"ten", "10"}}};

/// The contractions of the official evaluation: whatever lacks one of their apostrophes gets it back.
constexpr std::string_view contractions =
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's how'd how'll "
    "how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't "
    "she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's "
    "something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas "
    "wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll "
    "why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've";

std::map<std::string, std::string, std::less<>> spelt_without() {
  std::map<std::string, std::string, std::less<>> all;
  std::istringstream in{std::string(contractions)};
  for (std::string word; in >> word;) {
    for (std::size_t i = 0; i < word.size(); ++i)
      if (word[i] == '\'') all.emplace(word.substr(0, i) + word.substr(i + 1), word);
  }
  all["somebody'd"] = "somebodyd";  // as the official list has it, the wrong way round
  return all;
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// A comma between digits anywhere makes all punctuation vanish instead of parting words.
bool has_number_with_comma(std::string_view text) {
  for (std::size_t i = 1; i + 1 < text.size(); ++i)
    if (text[i] == ',' && is_digit(text[i - 1]) && is_digit(text[i + 1])) return true;
  return false;
}

std::string without_punctuation(std::string_view text) {
  const bool vanish = has_number_with_comma(text);
  std::array<bool, 256> gone{};
  for (const char mark : punctuation) {
    const std::string before{' ', mark}, behind{mark, ' '};
    gone[static_cast<unsigned char>(mark)] =
        vanish || text.find(before) != std::string_view::npos || text.find(behind) != std::string_view::npos;
  }
  std::string marked;
  for (const char c : text) {
    if (punctuation.find(c) == std::string_view::npos) {
      marked += c;
    } else if (!gone[static_cast<unsigned char>(c)]) {
      marked += ' ';
    }
  }
  std::string result;
  for (std::size_t i = 0; i < marked.size(); ++i)
    if (marked[i] != '.' || (i + 1 < marked.size() && is_digit(marked[i + 1]))) result += marked[i];
  return result;
}

}  // namespace

std::string normal_answer(std::string_view answer) {
  static const std::map<std::string, std::string, std::less<>> apostrophes = spelt_without();
  std::string text = without_punctuation(answer);
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return c < 128 ? std::tolower(c) : c; });
  std::istringstream words(text);
  std::string result;
  for (std::string word; words >> word;) {
    const auto* const number = std::find_if(numbers.begin(), numbers.end(), [&](const auto& one) { return one.first == word; });
    if (number != numbers.end()) word = number->second;
    if (word == "a" || word == "an" || word == "the") continue;
    if (const auto found = apostrophes.find(word); found != apostrophes.end()) word = found->second;
    result += (result.empty() ? "" : " ") + word;
  }
  return result;
}

double soft_score(std::int64_t given, std::int64_t annotators) {
  if (given <= 0) return 0;
  if (annotators == 10) return given >= 4 ? 1.0 : 0.3 * static_cast<double>(given);
  return std::min(1.0, static_cast<double>(given) / static_cast<double>(std::min<std::int64_t>(3, annotators)));
}

AnswerSpace::AnswerSpace(std::vector<std::string> answers, bool normalise) : answers_(std::move(answers)), normalise_(normalise) {
  for (std::size_t i = 0; i < answers_.size(); ++i) sorted_.emplace_back(answers_[i], static_cast<std::int64_t>(i));
  std::sort(sorted_.begin(), sorted_.end());
  const auto twice = std::adjacent_find(sorted_.begin(), sorted_.end(), [](const auto& a, const auto& b) { return a.first == b.first; });
  if (twice != sorted_.end())
    throw UsageError({.what = "an answer is listed twice", .where = "data.classes", .got = printable(twice->first)});
}

AnswerSpace AnswerSpace::of(const Dataset& dataset, std::int64_t min_count, bool normalise) {
  std::unordered_map<std::string, std::int64_t> counts;
  std::vector<std::string> order;
  std::int64_t answered = 0;
  for (const Example& example : dataset.examples) {
    if (example.answers.empty()) continue;
    ++answered;
    std::map<std::string, std::int64_t> given;
    for (const std::string& answer : example.answers) ++given[answer];
    const std::string* common = &example.answers.front();
    for (const std::string& answer : example.answers)
      if (given[answer] > given[*common]) common = &answer;
    const std::string normal = normal_answer(*common);
    if (counts[normal]++ == 0) order.push_back(normal);
  }
  std::erase_if(order, [&](const std::string& answer) { return answer.empty() || counts[answer] < min_count; });
  if (order.empty())
    throw Error({.what = answered == 0 ? "no example has an answer" : "no answer is common enough to be learned",
                 .where = dataset.source,
                 .expected = answered == 0 ? "the field answers: a text, or the list of the annotators' texts"
                                           : "an answer of at least " + std::to_string(min_count) + " examples (vqa.min_count)",
                 .hint = answered == 0 ? "data.columns.answers can name another field" : ""});
  return {std::move(order), normalise};
}

std::vector<AnswerScore> AnswerSpace::scores(const Example& example) const {
  std::map<std::int64_t, std::int64_t> given;
  for (const std::string& answer : example.answers) {
    const std::string looked_up = normalise_ ? normal_answer(answer) : answer;
    const auto found = std::lower_bound(sorted_.begin(), sorted_.end(), std::pair<std::string, std::int64_t>(looked_up, 0));
    if (found != sorted_.end() && found->first == looked_up) ++given[found->second];
  }
  std::vector<AnswerScore> scores;
  for (const auto& [answer, count] : given)
    scores.push_back({answer, soft_score(count, static_cast<std::int64_t>(example.answers.size()))});
  return scores;
}

std::optional<AnswerScore> AnswerSpace::best(const Example& example) const {
  const std::vector<AnswerScore> all = scores(example);
  const auto found = std::max_element(all.begin(), all.end(), [](const AnswerScore& a, const AnswerScore& b) { return a.score < b.score; });
  return found == all.end() ? std::nullopt : std::optional(*found);
}

}  // namespace mmtune::data
