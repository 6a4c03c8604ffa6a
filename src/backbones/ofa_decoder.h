#pragma once
// OFA's decoder, a few words at a time. Keys and values of words are kept a line, those of the source once for all lines that ask for it,
// and what the biases of positions are made of once for all of them.

#include <vector>

#include "backbones/ofa.h"

namespace mmtune::backbones {

class OfaDecoder final : public CachedDecoder {
 public:
  OfaDecoder(const Ofa& model, const OfaEncoded& encoded, const nn::Context& context);

  std::int64_t batch() const override { return static_cast<std::int64_t>(source_of_.size()); }
  std::int64_t vocabulary() const override { return model_.shape().vocabulary; }
  at::Tensor read(const at::Tensor& tokens) override;
  void select(const at::Tensor& rows) override;
  at::Tensor tree_log_probabilities(const at::Tensor& tokens, const at::Tensor& parents) override { return tree(tokens, parents, true); }
  at::Tensor tree_scores(const at::Tensor& tokens, const at::Tensor& parents) override { return tree(tokens, parents, false); }

 private:
  /// Hidden states [n·T, D] of words [n, T] at `places`; `hidden` [T, P + T]: what is added to the scores, undefined: causal.
  at::Tensor pass(const at::Tensor& words, const std::vector<std::int64_t>& places, const at::Tensor& hidden, bool keep);
  at::Tensor logits(const at::Tensor& hidden) const;
  at::Tensor tree(const at::Tensor& tokens, const at::Tensor& parents, bool normalised);
  /// Makes queries and keys of positions up to `count`.
  void prepare_positions(std::int64_t count);
  OfaAsking asking(const std::vector<std::int64_t>& places) const;

  const Ofa& model_;
  nn::Context context_;
  std::vector<OfaPast> past_;
  std::vector<OfaSourceKeys> sources_;
  std::vector<std::int64_t> source_of_;                  ///< of a line; those of one source stand together
  at::Tensor source_mask_;                               ///< [B, S]: 0, or −inf
  at::Tensor source_positions_;                          ///< [H, d, S]
  at::Tensor self_queries_, self_keys_, cross_queries_;  ///< of positions, [H, count, d]
  at::Tensor last_;                                      ///< logits [n, V] of what follows
  std::int64_t length_ = 0;
};

}  // namespace mmtune::backbones
