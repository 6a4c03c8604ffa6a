#pragma once
// What a language model says: greedy search, beam search, both within a list of candidates, and the ranking of such candidates. Over any
// decoder that keeps its keys and values (backbones/cached_decoder.h), so nothing is computed twice.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "backbones/cached_decoder.h"
#include "backbones/candidate_trie.h"

namespace mmtune::backbones {

/// When a beam search whose beams are all full of finished answers is over: at once (`yes`, as fairseq does it), when the best unfinished
/// one would not be better at the length it has (`no`), or at any length that it may reach (`never`). The names of transformers.
enum class EarlyStopping { no, yes, never };

struct GenerationOptions {
  std::int64_t beams = 1;            ///< 1: greedy
  std::int64_t answers = 1;          ///< best continuations that are wanted of every row, at most `beams`
  std::int64_t max_new_tokens = 16;  ///< the end token counts
  std::int64_t min_new_tokens = 0;   ///< as many come before an end token
  std::vector<std::int64_t> ends;    ///< tokens that end an answer; they are its last
  /// Sequences of tokens that end an answer too, being its last.
  std::vector<std::vector<std::int64_t>> stops;
  std::vector<std::int64_t> never;  ///< tokens that are not said (padding)
  /// Whether the last place is for an end token only, whatever it costs (fairseq's max_len).
  bool end_last = false;
  double length_penalty = 1.0;  ///< a finished answer's score is its summed log-probability divided by length ^ this; 0: the sum
  EarlyStopping early_stopping = EarlyStopping::no;
  /// No sequence of as many tokens comes twice, what was read before included; 0: anything may come again.
  std::int64_t no_repeat_ngram = 0;
  /// Scores of tokens that came before are divided by it where positive and multiplied where negative (arXiv 1909.05858); 1: nothing.
  double repetition_penalty = 1.0;
  /// Answers are from this list: probabilities are those among the tokens that may follow. Null: anything.
  const CandidateTrie* candidates = nullptr;
};

struct Continuation {
  std::vector<std::int64_t> tokens;       ///< the end token or stop sequence included
  std::vector<double> log_probabilities;  ///< of each token, as the search counted it
  double score = 0;                       ///< beam search: what answers are ordered by; greedy: the summed log-probability
  bool ended = false;                     ///< with an end token or a stop sequence, not for want of room
};

/// Continues every row of `decoder`, best answer first. `logits` [B, V] are of what follows the last token read (CachedDecoder::read);
/// `history` holds the tokens of each row that repetition is judged by (empty: none). Moves the decoder's rows about as the search does:
/// afterwards they are of no use. Throws Error: options that make no sense, a candidate's token outside of the vocabulary, a row for
/// which every token is forbidden.
std::vector<std::vector<Continuation>> generate(CachedDecoder& decoder, const at::Tensor& logits, const GenerationOptions& options,
                                                const std::vector<std::vector<std::int64_t>>& history = {});

struct RankingOptions {
  /// Divide a candidate's score by the number of its tokens.
  bool mean = false;
  /// Probabilities among the tokens that may follow at each place, as OFA ranks; otherwise among the whole vocabulary.
  bool among_candidates = true;
};

/// Scores [B, C] float32 of all candidates as continuations of every row: the log-probabilities of their tokens, the end's too, summed up.
/// One pass; what candidates have in common is computed once. Throws Error on a token outside of the vocabulary.
at::Tensor rank_candidates(CachedDecoder& decoder, const CandidateTrie& candidates, const RankingOptions& options = {});

}  // namespace mmtune::backbones
