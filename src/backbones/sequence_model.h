#pragma once
// A backbone that writes: an encoder reads words and a picture, a decoder says tokens. Tasks whose answers are sequences learn and ask
// through this.

#include <cstdint>
#include <memory>
#include <vector>

#include "backbones/backbone.h"
#include "backbones/cached_decoder.h"

namespace mmtune::backbones {

/// Tokens with a meaning of their own.
struct SequenceTokens {
  std::int64_t start = 0, padding = 1, end = 2;
};

/// What happens to a frozen model's own states while an expert on it learns.
struct SequenceNoise {
  double dropout = 0;    ///< of embeddings and sublayers' outputs
  double drop_path = 0;  ///< share of examples that a sublayer is left out for, growing in a line from 0 in a stack's first block to this
};

class SequenceModel {
 public:
  virtual ~SequenceModel() = default;
  virtual SequenceTokens tokens() const = 0;
  virtual std::int64_t vocabulary() const = 0;
  /// Most tokens that the decoder can read.
  virtual std::int64_t longest_answer() const = 0;
  virtual void set_noise(const SequenceNoise& noise) = 0;

  /// Logits [N, V] behind those places of `said` [B, T] (right-padded) where `wanted` [B, T] bool is true, row by row; answer b is about
  /// row rows[b] of `inputs`.
  virtual at::Tensor taught(const ModelInputs& inputs, const std::vector<std::int64_t>& rows, const at::Tensor& said,
                            const at::Tensor& wanted, const nn::Context& context) = 0;
  /// A decoder with one line for each of `rows`, which has read nothing yet. No gradient flows.
  virtual std::unique_ptr<CachedDecoder> begin(const ModelInputs& inputs, const std::vector<std::int64_t>& rows,
                                               const nn::Context& context) = 0;
};

}  // namespace mmtune::backbones
