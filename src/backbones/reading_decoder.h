#pragma once
// A CachedDecoder over a ReadingCache: what is the same for every language model.

#include <vector>

#include "backbones/cached_decoder.h"
#include "backbones/language_attention.h"

namespace mmtune::backbones {

class ReadingDecoder : public CachedDecoder {
 public:
  std::int64_t batch() const override { return batch_; }
  at::Tensor read(const at::Tensor& tokens) override;
  void select(const at::Tensor& rows) override;
  at::Tensor tree_log_probabilities(const at::Tensor& tokens, const at::Tensor& parents) override { return tree(tokens, parents, true); }
  at::Tensor tree_scores(const at::Tensor& tokens, const at::Tensor& parents) override { return tree(tokens, parents, false); }

 protected:
  ReadingDecoder(std::int64_t batch, std::size_t blocks) : batch_(batch), cache_(blocks) {}
  /// The states [B·T, E] of tokens [B, T] behind what the cache holds. Token i is `depths[i]` places behind the next one to be read.
  virtual at::Tensor states(const at::Tensor& tokens, const std::vector<std::int64_t>& depths) = 0;
  virtual at::Tensor logits(const at::Tensor& states) = 0;
  /// Of what a family keeps beside the cache.
  virtual void select_more(const at::Tensor&) {}

  std::int64_t batch_;
  ReadingCache cache_;
  at::Tensor last_;  ///< [B, E], the states of the last row that was read; undefined: none was

 private:
  at::Tensor tree(const at::Tensor& tokens, const at::Tensor& parents, bool normalised);
};

}  // namespace mmtune::backbones
