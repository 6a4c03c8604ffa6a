// Searches over a decoder whose every logit is known: what is found, what is refused, and that no token is read twice.

#include "backbones/generation.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "core/error.h"

namespace mmtune::backbones {
namespace {

using Tokens = std::vector<std::int64_t>;

/// Logits are a function of all that a row has read.
class Table final : public CachedDecoder {
 public:
  Table(std::int64_t vocabulary, std::vector<Tokens> rows) : vocabulary_(vocabulary), rows_(std::move(rows)) {}

  std::int64_t batch() const override { return static_cast<std::int64_t>(rows_.size()); }
  std::int64_t vocabulary() const override { return vocabulary_; }
  at::Tensor read(const at::Tensor& tokens) override {
    for (std::size_t row = 0; row < rows_.size(); ++row)
      for (std::int64_t i = 0; i < tokens.size(1); ++i)
        rows_[row].push_back(tokens[static_cast<std::int64_t>(row)][i].item<std::int64_t>());
    tokens_read += tokens.numel();
    return now();
  }
  void select(const at::Tensor& rows) override {
    std::vector<Tokens> chosen;
    for (std::int64_t i = 0; i < rows.size(0); ++i) chosen.push_back(rows_[static_cast<std::size_t>(rows[i].item<std::int64_t>())]);
    rows_ = std::move(chosen);
  }
  at::Tensor tree_log_probabilities(const at::Tensor& tokens, const at::Tensor& parents) override {
    at::Tensor result = at::empty({batch(), tokens.size(0)});
    for (std::size_t row = 0; row < rows_.size(); ++row)
      for (std::int64_t node = 0; node < tokens.size(0); ++node) {
        Tokens path;
        for (std::int64_t at = parents[node].item<std::int64_t>(); at >= 0; at = parents[at].item<std::int64_t>())
          path.insert(path.begin(), tokens[at].item<std::int64_t>());
        Tokens seen = rows_[row];
        seen.insert(seen.end(), path.begin(), path.end());
        result[static_cast<std::int64_t>(row)][node] = at::log_softmax(logits(seen), 0)[tokens[node].item<std::int64_t>()];
      }
    return result;
  }
  at::Tensor now() const {
    std::vector<at::Tensor> all;
    for (const Tokens& row : rows_) all.push_back(logits(row));
    return at::stack(all);
  }
  at::Tensor logits(const Tokens& seen) const {
    std::uint64_t state = 0x9E3779B97F4A7C15ULL;
    for (const std::int64_t token : seen) state = (state ^ static_cast<std::uint64_t>(token + 1)) * 0xBF58476D1CE4E5B9ULL;
    at::Tensor result = at::empty({vocabulary_});
    for (std::int64_t v = 0; v < vocabulary_; ++v) {
      state ^= state >> 29;
      state *= 0x94D049BB133111EBULL;
      result[v] = static_cast<double>(state >> 40) / static_cast<double>(1U << 24) * 6.0 - 3.0;
    }
    return result;
  }
  std::int64_t tokens_read = 0;

 private:
  std::int64_t vocabulary_;
  std::vector<Tokens> rows_;
};

std::vector<std::vector<Continuation>> run(Table& table, const GenerationOptions& options, const std::vector<Tokens>& history = {}) {
  return generate(table, table.now(), options, history);
}

struct Answer {
  Tokens tokens;
  double score = -1e30;
};

/// The best of all answers that end with `end` or have `longest` tokens.
Answer best_of_all(const Table& table, const Tokens& start, std::int64_t end, std::int64_t longest, double penalty) {
  Answer best;
  std::function<void(Tokens, double)> walk = [&](const Tokens& said, double sum) {
    if (!said.empty() && (said.back() == end || static_cast<std::int64_t>(said.size()) == longest)) {
      const double score = sum / std::pow(static_cast<double>(said.size()), penalty);
      if (score > best.score) best = {said, score};
      return;
    }
    Tokens seen = start;
    seen.insert(seen.end(), said.begin(), said.end());
    const at::Tensor logs = at::log_softmax(table.logits(seen), 0);
    for (std::int64_t v = 0; v < table.vocabulary(); ++v) {
      Tokens next = said;
      next.push_back(v);
      walk(next, sum + logs[v].item<double>());
    }
  };
  walk({}, 0);
  return best;
}

TEST(Generation, GreedyTakesTheLikeliestOfEveryStep) {
  Table table(7, {{0}, {3, 4}});
  const auto answers = run(table, {.max_new_tokens = 5, .ends = {2}});
  ASSERT_EQ(answers.size(), 2U);
  for (const auto& [start, answer] : {std::pair{Tokens{0}, answers[0]}, std::pair{Tokens{3, 4}, answers[1]}}) {
    Tokens seen = start;
    double sum = 0;
    for (std::size_t i = 0; i < answer.front().tokens.size(); ++i) {
      const at::Tensor logs = at::log_softmax(table.logits(seen), 0);
      EXPECT_EQ(answer.front().tokens[i], logs.argmax().item<std::int64_t>());
      EXPECT_NEAR(answer.front().log_probabilities[i], logs.max().item<double>(), 1e-5);
      sum += logs.max().item<double>();
      seen.push_back(answer.front().tokens[i]);
    }
    EXPECT_NEAR(answer.front().score, sum, 1e-4);
    EXPECT_TRUE(answer.front().tokens.size() == 5U || answer.front().ended);
  }
}

TEST(Generation, ABeamAsWideAsTheTreeFindsTheBest) {
  for (const double penalty : {0.0, 1.0, 2.0})
    for (const Tokens& start : {Tokens{0}, Tokens{1, 1}, Tokens{4}}) {
      Table table(4, {start});
      const auto answers =
          run(table, {.beams = 64, .max_new_tokens = 3, .ends = {2}, .length_penalty = penalty, .early_stopping = EarlyStopping::never});
      const Answer best = best_of_all(table, start, 2, 3, penalty);
      EXPECT_EQ(answers[0].front().tokens, best.tokens);
      EXPECT_NEAR(answers[0].front().score, best.score, 1e-4);
    }
}

TEST(Generation, RowsOfABatchDoNotDisturbEachOther) {
  const std::vector<Tokens> starts = {{0}, {5, 1}, {3}};
  for (const EarlyStopping stopping : {EarlyStopping::no, EarlyStopping::yes, EarlyStopping::never}) {
    const GenerationOptions options{.beams = 3, .answers = 3, .max_new_tokens = 7, .ends = {2, 4}, .early_stopping = stopping};
    Table together(9, starts);
    const auto all = run(together, options);
    for (std::size_t row = 0; row < starts.size(); ++row) {
      Table alone(9, {starts[row]});
      const auto one = run(alone, options);
      ASSERT_EQ(all[row].size(), one[0].size());
      for (std::size_t i = 0; i < one[0].size(); ++i) {
        EXPECT_EQ(all[row][i].tokens, one[0][i].tokens);
        EXPECT_NEAR(all[row][i].score, one[0][i].score, 1e-5);
        if (i > 0) {
          EXPECT_LE(all[row][i].score, all[row][i - 1].score);
        }
      }
    }
  }
}

TEST(Generation, ReadsEveryTokenOnce) {
  Table table(9, {{0}, {1}});
  run(table, {.beams = 4, .max_new_tokens = 6});
  // The last token is not read, and none before it twice.
  EXPECT_EQ(table.tokens_read, 2 * 4 * 5);
  Table greedy(9, {{0}, {1}});
  run(greedy, {.max_new_tokens = 6});
  EXPECT_EQ(greedy.tokens_read, 2 * 5);
}

TEST(Generation, NoSequenceComesTwice) {
  for (const std::int64_t beams : {1, 3}) {
    Table table(3, {{0, 1}});
    const auto answers = run(table, {.beams = beams, .max_new_tokens = 6, .no_repeat_ngram = 2}, {{0, 1}});
    Tokens all{0, 1};
    all.insert(all.end(), answers[0].front().tokens.begin(), answers[0].front().tokens.end());
    for (std::size_t i = 0; i + 1 < all.size(); ++i)
      for (std::size_t j = i + 1; j + 1 < all.size(); ++j) EXPECT_FALSE(all[i] == all[j] && all[i + 1] == all[j + 1]);
  }
}

TEST(Generation, APenaltyIsPaidForWhatCameBefore) {
  Table table(5, {{0}});
  const at::Tensor logits = table.now();
  const std::int64_t top = logits[0].argmax().item<std::int64_t>();
  ASSERT_GT(logits[0].max().item<double>(), 0);
  const auto answers = run(table, {.max_new_tokens = 1, .repetition_penalty = 100.0}, {{top}});
  EXPECT_NE(answers[0].front().tokens[0], top);
}

TEST(Generation, EndsNeitherTooEarlyNorTooLate) {
  for (const std::int64_t beams : {1, 4}) {
    Table table(4, {{0}, {1}, {2}});
    for (const auto& answer : run(table, {.beams = beams, .max_new_tokens = 5, .min_new_tokens = 4, .ends = {2}, .end_last = true})) {
      ASSERT_EQ(answer.front().tokens.size(), 5U);
      EXPECT_EQ(answer.front().tokens.back(), 2);
      EXPECT_EQ(std::count(answer.front().tokens.begin(), answer.front().tokens.end(), 2), 1);
    }
  }
}

TEST(Generation, SomeTokensAreNeverSaid) {
  for (const std::int64_t beams : {1, 3}) {
    Table table(4, {{0}, {1}});
    for (const auto& answer : run(table, {.beams = beams, .max_new_tokens = 6, .never = {0, 3}}))
      for (const std::int64_t token : answer.front().tokens) EXPECT_TRUE(token == 1 || token == 2);
  }
}

TEST(Generation, EndsBehindAStopSequence) {
  Table table(5, {{0}});
  const Tokens whole = run(table, {.max_new_tokens = 8})[0].front().tokens;
  Table again(5, {{0}});
  const auto answer = run(again, {.max_new_tokens = 8, .stops = {{whole[2], whole[3]}}})[0].front();
  EXPECT_TRUE(answer.ended);
  EXPECT_LE(answer.tokens.size(), 4U);
  EXPECT_TRUE(std::equal(answer.tokens.begin(), answer.tokens.end(), whole.begin()));
}

TEST(Generation, SaysOnlyCandidates) {
  const std::vector<Tokens> candidates = {{5, 6}, {5, 7, 1}, {3}};
  const CandidateTrie trie(candidates, 2);
  EXPECT_EQ(trie.size(), 8);
  EXPECT_EQ(trie.length(1), 4);
  Table table(8, {{0}, {4}});
  Table ranked(8, {{0}, {4}});
  const at::Tensor scores = rank_candidates(ranked, trie);
  const auto answers = run(table, {.beams = 3, .answers = 3, .max_new_tokens = 6, .ends = {2}, .length_penalty = 0, .candidates = &trie});
  for (std::int64_t row = 0; row < 2; ++row) {
    EXPECT_NEAR(scores[row].exp().sum().item<double>(), 1.0, 1e-5);
    // A beam for every candidate finds them all, in the order and with the scores of the ranking.
    const at::Tensor order = scores[row].argsort(0, true);
    const auto& own = answers[static_cast<std::size_t>(row)];
    ASSERT_EQ(own.size(), 3U);
    for (std::int64_t i = 0; i < 3; ++i) {
      const std::int64_t candidate = order[i].item<std::int64_t>();
      Tokens expected = candidates[static_cast<std::size_t>(candidate)];
      expected.push_back(2);
      EXPECT_EQ(own[static_cast<std::size_t>(i)].tokens, expected);
      EXPECT_NEAR(own[static_cast<std::size_t>(i)].score, scores[row][candidate].item<double>(), 1e-5);
    }
  }
  // Without an end token the answer is over where nothing may follow.
  const CandidateTrie endless(candidates, std::nullopt);
  Table open(8, {{0}});
  EXPECT_TRUE(run(open, {.max_new_tokens = 6, .candidates = &endless})[0].front().ended);
}

TEST(Generation, RanksAmongTheWholeVocabularyToo) {
  const std::vector<Tokens> candidates = {{1, 2}, {3}};
  const CandidateTrie trie(candidates, std::nullopt);
  Table table(5, {{0}});
  const at::Tensor first = at::log_softmax(table.logits({0}), 0), second = at::log_softmax(table.logits({0, 1}), 0);
  const at::Tensor sums = rank_candidates(table, trie, {.among_candidates = false});
  EXPECT_NEAR(sums[0][0].item<double>(), (first[1] + second[2]).item<double>(), 1e-5);
  EXPECT_NEAR(sums[0][1].item<double>(), first[3].item<double>(), 1e-5);
  const at::Tensor means = rank_candidates(table, trie, {.mean = true, .among_candidates = false});
  EXPECT_NEAR(means[0][0].item<double>(), (first[1] + second[2]).item<double>() / 2, 1e-5);
}

TEST(Generation, RefusesWhatCannotBe) {
  Table table(8, {{0}});
  EXPECT_THROW(CandidateTrie(std::vector<Tokens>{}, 2), Error);
  EXPECT_THROW(CandidateTrie(std::vector<Tokens>{{1}, {}}, std::nullopt), Error);
  const CandidateTrie far(std::vector<Tokens>{{8}}, std::nullopt);
  EXPECT_THROW(run(table, {.candidates = &far}), Error);
  EXPECT_THROW(rank_candidates(table, far), Error);
  EXPECT_THROW(run(table, {.beams = 0}), UsageError);
  EXPECT_THROW(run(table, {.beams = 2, .answers = 3}), UsageError);
  EXPECT_THROW(run(table, {.max_new_tokens = 0}), UsageError);
  EXPECT_THROW(run(table, {.repetition_penalty = 0}), UsageError);
  // The only answer is one token long, but three must come before the end.
  const CandidateTrie trie(std::vector<Tokens>{{1}}, 2);
  for (const std::int64_t beams : {1, 2}) {
    Table fresh(8, {{0}});
    try {
      run(fresh, {.beams = beams, .min_new_tokens = 3, .ends = {2}, .candidates = &trie});
      FAIL() << "every token was forbidden";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("every token is forbidden"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace mmtune::backbones
