#include "backbones/generation.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>

#include "core/error.h"

namespace mmtune::backbones {

namespace {

constexpr double nothing = -std::numeric_limits<double>::infinity();

/// One unfinished answer.
struct Line {
  std::vector<std::int64_t> seen;  ///< history, then `said`
  Continuation said;
  double sum = 0;
  std::int64_t node = CandidateTrie::root;
};

/// A row's search.
struct Search {
  std::vector<Line> lines;             ///< best first
  std::vector<Continuation> finished;  ///< best first, at most options.beams
  bool over = false;
};

at::Tensor to_index(const std::vector<std::int64_t>& indices, const at::Tensor& beside) {
  return at::tensor(indices, at::kLong).to(beside.device());
}

void check(const CachedDecoder& decoder, const at::Tensor& logits, const GenerationOptions& options,
           const std::vector<std::vector<std::int64_t>>& history) {
  MMTUNE_ASSERT(logits.dim() == 2 && logits.size(0) == decoder.batch() && logits.size(1) == decoder.vocabulary());
  MMTUNE_ASSERT(history.empty() || static_cast<std::int64_t>(history.size()) == decoder.batch());
  const auto refuse = [](const char* what, const char* where, const char* expected, double got) {
    throw UsageError({.what = what, .where = where, .expected = expected, .got = printable(std::to_string(got))});
  };
  if (options.beams < 1) refuse("a search needs a beam", "beams", "1 or more", static_cast<double>(options.beams));
  if (options.answers < 1 || options.answers > options.beams)
    refuse("more answers are wanted than there are beams", "answers", "1 up to beams", static_cast<double>(options.answers));
  if (options.max_new_tokens < 1)
    refuse("an answer needs a token", "max_new_tokens", "1 or more", static_cast<double>(options.max_new_tokens));
  if (!(options.repetition_penalty > 0))
    refuse("a penalty must be positive", "repetition_penalty", "more than 0", options.repetition_penalty);
  if (options.candidates != nullptr && options.candidates->largest_token() >= decoder.vocabulary())
    throw Error({.what = "a candidate has a token that the model does not know",
                 .where = "candidates",
                 .expected = "less than " + std::to_string(decoder.vocabulary()),
                 .got = std::to_string(options.candidates->largest_token())});
}

/// Tokens that would make a sequence of `length` tokens come twice.
std::vector<std::int64_t> repeating(const std::vector<std::int64_t>& seen, std::int64_t length) {
  std::vector<std::int64_t> banned;
  const auto count = static_cast<std::int64_t>(seen.size());
  if (length < 1 || count < length) return banned;
  const auto tail = seen.end() - (length - 1);
  for (std::int64_t first = 0; first + length <= count; ++first)
    if (std::equal(tail, seen.end(), seen.begin() + first)) banned.push_back(seen[static_cast<std::size_t>(first + length - 1)]);
  return banned;
}

class Generator {
 public:
  explicit Generator(const GenerationOptions& options) : options_(options) {}

  /// Scores [n, V] of what may follow each line: log-probabilities, or for greedy search logits. −inf: forbidden.
  at::Tensor scores(const at::Tensor& logits, const std::vector<const Line*>& lines, bool logs) const {
    at::Tensor scores = logits.to(at::kFloat).clone();
    if (options_.candidates != nullptr)
      for (std::size_t i = 0; i < lines.size(); ++i) {
        at::Tensor row = scores[static_cast<std::int64_t>(i)];
        const at::Tensor allowed = to_index(options_.candidates->following(lines[i]->node), row);
        const at::Tensor kept = row.index_select(0, allowed);
        row.fill_(nothing).index_copy_(0, allowed, kept);
      }
    if (logs) scores = at::log_softmax(scores, 1);
    const auto said = static_cast<std::int64_t>(lines.front()->said.tokens.size());
    for (std::size_t i = 0; i < lines.size(); ++i) {
      at::Tensor row = scores[static_cast<std::int64_t>(i)];
      const std::vector<std::int64_t>& seen = lines[i]->seen;
      if (options_.repetition_penalty != 1.0 && !seen.empty()) {
        const std::set<std::int64_t> distinct(seen.begin(), seen.end());
        const at::Tensor index = to_index({distinct.begin(), distinct.end()}, row), old = row.index_select(0, index);
        row.index_copy_(0, index, at::where(old < 0, old * options_.repetition_penalty, old / options_.repetition_penalty));
      }
      if (const auto banned = repeating(seen, options_.no_repeat_ngram); !banned.empty())
        row.index_fill_(0, to_index(banned, row), nothing);
      if (!options_.never.empty()) row.index_fill_(0, to_index(options_.never, row), nothing);
      if (options_.ends.empty()) continue;
      const at::Tensor ends = to_index(options_.ends, row);
      if (said < options_.min_new_tokens) {
        row.index_fill_(0, ends, nothing);
      } else if (options_.end_last && said + 1 == options_.max_new_tokens) {
        const at::Tensor kept = row.index_select(0, ends);
        row.fill_(nothing).index_copy_(0, ends, kept);
      }
    }
    return scores;
  }

  Line extended(const Line& line, std::int64_t token, double log_probability) const {
    Line next = line;
    next.seen.push_back(token);
    next.said.tokens.push_back(token);
    next.said.log_probabilities.push_back(log_probability);
    next.sum += log_probability;
    const auto is = [&](const std::vector<std::int64_t>& stop) {
      return !stop.empty() && stop.size() <= next.said.tokens.size() && std::equal(stop.rbegin(), stop.rend(), next.said.tokens.rbegin());
    };
    next.said.ended = std::find(options_.ends.begin(), options_.ends.end(), token) != options_.ends.end() ||
                      std::any_of(options_.stops.begin(), options_.stops.end(), is);
    if (options_.candidates != nullptr) {
      next.node = options_.candidates->child(line.node, token).value();
      // A candidate without an end token ends where nothing may follow.
      next.said.ended = next.said.ended || options_.candidates->following(next.node).empty();
    }
    return next;
  }

  bool finishes(const Line& line) const {
    return line.said.ended || static_cast<std::int64_t>(line.said.tokens.size()) >= options_.max_new_tokens;
  }

  double normalised(double sum, std::int64_t length) const { return sum / std::pow(static_cast<double>(length), options_.length_penalty); }

  [[noreturn]] static void refuse_row(std::size_t row) {
    throw Error({.what = "every token is forbidden",
                 .where = "row " + std::to_string(row),
                 .hint = "candidates, min_new_tokens, end tokens and no_repeat_ngram leave no answer"});
  }

  /// One step of a row's search over the scores of its lines [n, V].
  std::vector<std::int64_t> step(Search& search, const at::Tensor& scores, std::size_t row) const;
  bool improvable(const Search& search) const;

 private:
  const GenerationOptions& options_;
};

/// Whether an unfinished line may still become better than the worst of as many finished ones as there are beams.
bool Generator::improvable(const Search& search) const {
  if (search.lines.empty()) return false;
  if (static_cast<std::int64_t>(search.finished.size()) < options_.beams) return true;
  if (options_.early_stopping == EarlyStopping::yes) return false;
  const auto length = static_cast<std::int64_t>(search.lines.front().said.tokens.size());
  const bool longest = options_.early_stopping == EarlyStopping::never && options_.length_penalty > 0;
  return normalised(search.lines.front().sum, longest ? options_.max_new_tokens : length) > search.finished.back().score;
}

/// Returns which line each of the new lines continues.
std::vector<std::int64_t> Generator::step(Search& search, const at::Tensor& scores, std::size_t row) const {
  const std::int64_t vocabulary = scores.size(1);
  std::vector<float> sums;
  for (const Line& line : search.lines) sums.push_back(static_cast<float>(line.sum));
  const at::Tensor total = (scores + at::tensor(sums).to(scores.device()).unsqueeze(1)).flatten();
  // As many as are sure to leave `beams` unfinished ones.
  const auto kinds = std::max<std::int64_t>(2, 1 + static_cast<std::int64_t>(options_.ends.size()));
  const std::int64_t wanted = std::min(kinds * options_.beams, total.size(0));
  const auto [values, places] = total.topk(wanted);
  const at::Tensor best = values.to(at::kCPU), at = places.to(at::kCPU), own = scores.flatten().index_select(0, places).to(at::kCPU);
  std::vector<Line> lines;
  std::vector<std::int64_t> from;
  for (std::int64_t i = 0; i < wanted; ++i) {
    if (!std::isfinite(best[i].item<float>())) break;
    const std::int64_t place = at[i].item<std::int64_t>(), line = place / vocabulary;
    Line next = extended(search.lines[static_cast<std::size_t>(line)], place % vocabulary, own[i].item<double>());
    if (finishes(next)) {
      // Only among the best may an answer end; the others are there to go on.
      if (i >= options_.beams) continue;
      next.said.score = normalised(next.sum, static_cast<std::int64_t>(next.said.tokens.size()));
      const auto worse = std::find_if(search.finished.begin(), search.finished.end(),
                                      [&](const Continuation& other) { return other.score < next.said.score; });
      search.finished.insert(worse, std::move(next.said));
      if (static_cast<std::int64_t>(search.finished.size()) > options_.beams) search.finished.pop_back();
    } else if (static_cast<std::int64_t>(lines.size()) < options_.beams) {
      lines.push_back(std::move(next));
      from.push_back(line);
    }
  }
  search.lines = std::move(lines);
  if (search.lines.empty() && search.finished.empty()) refuse_row(row);
  search.over = !improvable(search);
  return from;
}

std::vector<std::vector<Continuation>> beam_search(CachedDecoder& decoder, at::Tensor logits, const GenerationOptions& options,
                                                   std::vector<Line> starts) {
  const Generator generator(options);
  std::vector<Search> searches(starts.size());
  for (std::size_t row = 0; row < starts.size(); ++row) searches[row].lines.push_back(std::move(starts[row]));
  while (true) {
    std::vector<const Line*> lines;
    for (const Search& search : searches)
      if (!search.over)
        for (const Line& line : search.lines) lines.push_back(&line);
    const at::Tensor scores = generator.scores(logits, lines, true);
    std::vector<std::int64_t> rows, tokens;
    std::int64_t first = 0;
    for (std::size_t row = 0; row < searches.size(); ++row) {
      Search& search = searches[row];
      if (search.over) continue;
      const auto count = static_cast<std::int64_t>(search.lines.size());
      const std::vector<std::int64_t> from = generator.step(search, scores.narrow(0, first, count), row);
      for (std::size_t i = 0; i < from.size() && !search.over; ++i) {
        rows.push_back(first + from[i]);
        tokens.push_back(search.lines[i].said.tokens.back());
      }
      first += count;
    }
    if (rows.empty()) break;
    decoder.select(at::tensor(rows, at::kLong));
    logits = decoder.read(at::tensor(tokens, at::kLong).unsqueeze(1));
  }
  std::vector<std::vector<Continuation>> answers;
  for (Search& search : searches) {
    search.finished.resize(std::min(search.finished.size(), static_cast<std::size_t>(options.answers)));
    answers.push_back(std::move(search.finished));
  }
  return answers;
}

std::vector<std::vector<Continuation>> greedy_search(CachedDecoder& decoder, at::Tensor logits, const GenerationOptions& options,
                                                     std::vector<Line> lines) {
  const Generator generator(options);
  std::vector<std::vector<Continuation>> answers(lines.size());
  std::vector<std::size_t> row_of(lines.size());  // which row an unfinished line belongs to
  for (std::size_t i = 0; i < row_of.size(); ++i) row_of[i] = i;
  while (!lines.empty()) {
    std::vector<const Line*> open;
    for (const Line& line : lines) open.push_back(&line);
    const at::Tensor scores = generator.scores(logits, open, false);
    const auto [best, places] = scores.max(1);
    const at::Tensor logs = (best - scores.logsumexp({1})).to(at::kCPU), tops = best.to(at::kCPU), chosen = places.to(at::kCPU);
    std::vector<Line> next;
    std::vector<std::size_t> next_rows;
    std::vector<std::int64_t> rows, tokens;
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const auto at = static_cast<std::int64_t>(i);
      if (tops[at].item<float>() == -std::numeric_limits<float>::infinity()) Generator::refuse_row(row_of[i]);
      Line line = generator.extended(lines[i], chosen[at].item<std::int64_t>(), logs[at].item<double>());
      if (generator.finishes(line)) {
        line.said.score = line.sum;
        answers[row_of[i]].push_back(std::move(line.said));
        continue;
      }
      rows.push_back(at);
      tokens.push_back(line.said.tokens.back());
      next_rows.push_back(row_of[i]);
      next.push_back(std::move(line));
    }
    if (!next.empty()) {
      if (next.size() < lines.size()) decoder.select(at::tensor(rows, at::kLong));
      logits = decoder.read(at::tensor(tokens, at::kLong).unsqueeze(1));
    }
    lines = std::move(next);
    row_of = std::move(next_rows);
  }
  return answers;
}

}  // namespace

std::vector<std::vector<Continuation>> generate(CachedDecoder& decoder, const at::Tensor& logits, const GenerationOptions& options,
                                                const std::vector<std::vector<std::int64_t>>& history) {
  const at::NoGradGuard no_grad;
  check(decoder, logits, options, history);
  std::vector<Line> lines(static_cast<std::size_t>(decoder.batch()));
  for (std::size_t row = 0; row < history.size(); ++row) lines[row].seen = history[row];
  return options.beams == 1 ? greedy_search(decoder, logits, options, std::move(lines))
                            : beam_search(decoder, logits, options, std::move(lines));
}

at::Tensor rank_candidates(CachedDecoder& decoder, const CandidateTrie& candidates, const RankingOptions& options) {
  const at::NoGradGuard no_grad;
  if (candidates.largest_token() >= decoder.vocabulary())
    throw Error({.what = "a candidate has a token that the model does not know",
                 .where = "candidates",
                 .expected = "less than " + std::to_string(decoder.vocabulary()),
                 .got = std::to_string(candidates.largest_token())});
  const at::Tensor tokens = at::tensor(candidates.tokens(), at::kLong), parents = at::tensor(candidates.parents(), at::kLong);
  const at::Tensor logs =
      (options.among_candidates ? decoder.tree_scores(tokens, parents) : decoder.tree_log_probabilities(tokens, parents))
          .to(at::kCPU, at::kDouble)
          .contiguous();
  const std::int64_t batch = logs.size(0), size = candidates.size(), count = candidates.candidates();
  at::Tensor scores = at::empty({batch, count}, at::kFloat);
  auto* out = scores.data_ptr<float>();
  std::vector<double> sums(static_cast<std::size_t>(size)), among(static_cast<std::size_t>(size + 1));
  for (std::int64_t b = 0; b < batch; ++b) {
    const double* own = logs.const_data_ptr<double>() + b * size;
    // What a parent's children have of the probability, as a logarithm.
    std::fill(among.begin(), among.end(), nothing);
    const auto parent = [&](std::int64_t node) {
      return static_cast<std::size_t>(candidates.parents()[static_cast<std::size_t>(node)] + 1);
    };
    for (std::int64_t node = 0; options.among_candidates && node < size; ++node) {
      double& sum = among[parent(node)];
      const double high = std::max(sum, own[node]), low = std::min(sum, own[node]);
      sum = high == nothing ? nothing : high + std::log1p(std::exp(low - high));
    }
    for (std::int64_t node = 0; node < size; ++node) {
      const std::size_t behind = parent(node);
      const double share = options.among_candidates ? among[behind] : 0.0;
      sums[static_cast<std::size_t>(node)] = (behind == 0 ? 0.0 : sums[behind - 1]) + own[node] - share;
    }
    for (std::int64_t c = 0; c < count; ++c) {
      const double sum = sums[static_cast<std::size_t>(candidates.last(c))];
      *out++ = static_cast<float>(options.mean ? sum / static_cast<double>(candidates.length(c)) : sum);
    }
  }
  return scores;
}

}  // namespace mmtune::backbones
