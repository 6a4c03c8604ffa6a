#pragma once
// What generation and the ranking of candidates need of a language model: it reads tokens behind what its cache of keys and values holds.

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace mmtune::backbones {

/// A decoder over a batch of B rows, each with its own past. Everything is inference: no gradient flows.
class CachedDecoder {
 public:
  CachedDecoder() = default;
  virtual ~CachedDecoder() = default;
  CachedDecoder(const CachedDecoder&) = delete;
  CachedDecoder& operator=(const CachedDecoder&) = delete;

  virtual std::int64_t batch() const = 0;
  virtual std::int64_t vocabulary() const = 0;
  /// Reads `tokens` [B, T] int64 behind what was read before and keeps their keys and values. Logits [B, V] float32 of what follows the
  /// last of them.
  virtual at::Tensor read(const at::Tensor& tokens) = 0;
  /// From now on row i continues what row rows[i] had read; `rows` [B'] int64 may repeat and leave out rows (beam search), so that B
  /// becomes B'.
  virtual void select(const at::Tensor& rows) = 0;
  /// A tree of continuations that all rows share, read in one pass: node i is token `tokens[i]` behind node `parents[i]`, which comes
  /// before it (-1: directly behind what was read). Returns [B, M] float32: the log-probability of each node's token behind its parent.
  /// Leaves what was read as it is. `tokens`, `parents` [M] int64.
  virtual at::Tensor tree_log_probabilities(const at::Tensor& tokens, const at::Tensor& parents) = 0;
  /// The same up to a constant for all nodes of one parent, which is enough to compare them with each other and needs no sum over the
  /// vocabulary.
  virtual at::Tensor tree_scores(const at::Tensor& tokens, const at::Tensor& parents) { return tree_log_probabilities(tokens, parents); }
};

}  // namespace mmtune::backbones
