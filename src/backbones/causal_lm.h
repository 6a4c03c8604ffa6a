#pragma once
// Causal language models (LLaMA, OPT): what they have in common. Rows may be words or anything else of the embeddings' width (visual
// tokens).

#include <memory>
#include <vector>

#include "backbones/backbone.h"
#include "backbones/cached_decoder.h"
#include "backbones/config.h"
#include "backbones/language_attention.h"
#include "backbones/sequence_model.h"

namespace mmtune::backbones {

/// One block of a language model; changes the rows in place.
class LanguageBlock {
 public:
  virtual ~LanguageBlock() = default;
  virtual void operator()(nn::Tokens& tokens, const LanguageAttention::Pass& pass, const nn::Context& context) const = 0;
  virtual void list(nn::SiteTable& table) = 0;
  virtual std::int64_t macs(std::int64_t tokens) const = 0;
};

/// Rows for a language model to read.
struct LanguageRows {
  at::Tensor embeds;     ///< [N, E]
  nn::Layout layout;     ///< for a pass with a cache: uniform, padded on the left
  at::Tensor positions;  ///< [N] int64; undefined: counted, what is masked left out
};

/// As a SequenceModel it is asked with a text's tokens as the tokenizer makes them, and says what follows them.
class CausalLm : public Backbone, public SequenceModel {
 public:
  std::int64_t vocabulary() const override { return vocabulary_; }
  std::int64_t embedding_width() const { return embedding_width_; }
  std::size_t block_count() const { return blocks_.size(); }
  bool has_head() const { return head_ != nullptr || tied_; }

  /// Word embeddings [N, E] of ids [N].
  at::Tensor embed(const at::Tensor& ids) const;
  /// The states [N, E] behind the last norm. `last`: of how many of its last rows every sequence's are wanted; empty: of all. Then the last
  /// block computes no others where that is possible, and the result has these rows only. With a cache, the rows stand behind what it
  /// holds. Rows that an expert puts in front of a text are not in the result.
  at::Tensor states(const LanguageRows& rows, ReadingCache* cache, const std::vector<std::int64_t>& last, const nn::Context& context);
  /// [M, V] of states [M, E].
  at::Tensor logits(const at::Tensor& states, const nn::Context& context) const;

  ModelOutputs forward(const ModelInputs& inputs, const nn::Context& context) override;
  /// input_ids or inputs_embeds, attention_mask, position_ids → last_hidden_state, and logits where there is a head. What stands at masked
  /// places means nothing.
  TensorMap forward_named(const TensorMap& inputs, const nn::Context& context) override;
  std::int64_t macs(std::int64_t tokens, bool read_first) const override;

  SequenceTokens tokens() const override { return tokens_; }
  std::int64_t longest_answer() const override { return positions_; }
  void set_noise(const SequenceNoise& noise) override;
  /// Throws Error on a question of fewer than two tokens, as begin() does.
  at::Tensor taught(const ModelInputs& inputs, const std::vector<std::int64_t>& rows, const at::Tensor& said, const at::Tensor& wanted,
                    const nn::Context& context) override;
  std::unique_ptr<CachedDecoder> begin(const ModelInputs& inputs, const std::vector<std::int64_t>& rows,
                                       const nn::Context& context) override;

  /// Refuses what the checkpoint lacks (nn::Weights::finish).
  void finish(const nn::Weights& weights) { report_ = weights.finish(); }
  /// Multiply-accumulates of the blocks over `tokens` rows, and of the head for `predicted` ones.
  std::int64_t reading_macs(std::int64_t tokens, std::int64_t predicted) const;

 protected:
  /// The tokens with a meaning of their own; `usual`: where the configuration says nothing (padding -1: none).
  void read_tokens(const Config& config, const SequenceTokens& usual);
  /// To be called by the constructors of families, when their parts are there.
  void finish_construction(const nn::Weights& body, const nn::Weights& head, bool tied);
  /// From embeddings [N, E] to the first block's rows [N, D].
  virtual at::Tensor enter(const at::Tensor& embeds, const at::Tensor& positions, const nn::Context& context) const = 0;
  /// From the last block's rows to states.
  virtual at::Tensor leave(const at::Tensor& rows, const nn::Context& context) const = 0;
  virtual nn::Rotation rotation(const at::Tensor&) const { return {}; }

  std::int64_t vocabulary_ = 0, embedding_width_ = 0, positions_ = 0;
  at::Tensor words_;
  std::string words_name_;
  nn::WordSite word_site_;
  std::vector<std::unique_ptr<LanguageBlock>> blocks_;
  std::vector<nn::SequenceSite> sequence_sites_;

 private:
  std::unique_ptr<nn::Linear> head_;
  SequenceTokens tokens_;
  bool tied_ = false;
};

/// A causal language model that has read a prompt; no gradient flows. `prompt`: uniform, padded on the left. The model must outlive it.
std::unique_ptr<CachedDecoder> causal_decoder(CausalLm& model, const LanguageRows& prompt, const nn::Context& context);

/// LLaMA and Vicuna of a config section; names below `body` as in transformers' LlamaModel, "weight" below `head`.
std::unique_ptr<CausalLm> make_llama(const Config& config, const nn::Weights& body, const nn::Weights& head);
/// OPT; `body` is the decoder's scope.
std::unique_ptr<CausalLm> make_opt(const Config& config, const nn::Weights& body, const nn::Weights& head);

}  // namespace mmtune::backbones
