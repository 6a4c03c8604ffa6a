#pragma once
// The one implementation of MultimodalLm: a visual encoder in front of a causal language model or of T5. As a SequenceModel it is asked and
// taught in its family's sequence of training: inputs are pictures with instructions, whose tokens of type 1 are the Q-Former's.

#include <memory>

#include "backbones/causal_lm.h"
#include "backbones/config.h"
#include "backbones/multimodal_lm.h"
#include "backbones/sequence_model.h"
#include "backbones/t5.h"
#include "backbones/visual_encoder.h"

namespace mmtune::backbones {

class MultimodalModel final : public MultimodalLm, public SequenceModel {
 public:
  /// Tensors are asked for by the names of backbones/multimodal_names.h; `weights` is laid out for its file.
  MultimodalModel(MultimodalFamily family, const Config& config, const nn::Weights& weights);

  VisualTokens encode(const at::Tensor& pixel_values, std::span<const Instruction> instructions, const nn::Context& context) override;
  at::Tensor project(std::span<const at::Tensor> features, const nn::Context& context) override;
  TaskLoss task_loss(const at::Tensor& visual, std::span<const Instruction> instructions, std::span<const TokenIds> answers,
                     const nn::Context& context) override;
  Begun begin(const at::Tensor& visual, std::span<const Instruction> instructions, const PromptPieces& pieces,
              const nn::Context& context) override;
  at::Tensor candidate_scores(const at::Tensor& visual, std::span<const Instruction> instructions, std::span<const TokenIds> candidates,
                              const ScoreOptions& options, const nn::Context& context) override;

  /// Throws Error where an answer ends with several tokens; PromptFormat must be the family's.
  SequenceTokens tokens() const override;
  std::int64_t vocabulary() const override { return multimodal_.vocabulary; }
  std::int64_t longest_answer() const override { return info_.max_length; }
  void set_noise(const SequenceNoise& noise) override;
  at::Tensor taught(const ModelInputs& inputs, const std::vector<std::int64_t>& rows, const at::Tensor& said, const at::Tensor& wanted,
                    const nn::Context& context) override;
  std::unique_ptr<CachedDecoder> begin(const ModelInputs& inputs, const std::vector<std::int64_t>& rows,
                                       const nn::Context& context) override;

  ModelOutputs forward(const ModelInputs& inputs, const nn::Context& context) override;
  TensorMap forward_named(const TensorMap& inputs, const nn::Context& context) override;
  /// Of a picture's way and the reading of `tokens` words with the visual ones.
  std::int64_t macs(std::int64_t tokens, bool read_first) const override;

  /// For golden cases: what happens on a picture's way, and the states of an encoder-decoder's encoder.
  VisualEncoder& vision() { return *vision_; }
  QFormerText words_for_q_former(std::span<const Instruction> instructions) const;
  CausalLm* causal() { return causal_.get(); }
  T5* encoder_decoder() { return t5_.get(); }

 private:
  /// The prompts of a batch in the language model's embedding space.
  struct Prompts {
    at::Tensor rows;  ///< all prompts' rows one behind the other [N, D]
    std::vector<std::int64_t> lengths;
  };
  Prompts prompts(const at::Tensor& visual, std::span<const Instruction> instructions, const PromptPieces& pieces,
                  std::span<const TokenIds> behind) const;
  /// The same, of one length.
  LanguageRows padded(const Prompts& prompts, bool left) const;
  at::Tensor embed(const at::Tensor& ids) const { return causal_ ? causal_->embed(ids) : t5_->embed(ids); }
  /// Word embeddings with the visual tokens in the place of their placeholders.
  at::Tensor placed(const at::Tensor& ids, const at::Tensor& visual) const;
  std::unique_ptr<CachedDecoder> read(const at::Tensor& visual, std::span<const Instruction> instructions, const PromptPieces& pieces,
                                      const nn::Context& context, bool all_but_last, TokenIds& last) const;

  /// A batch of questions: visual tokens and instructions, one of each for every one of `rows`.
  struct Asked {
    at::Tensor visual;
    std::vector<Instruction> instructions;
  };
  Asked asked(const ModelInputs& inputs, const std::vector<std::int64_t>& rows, const nn::Context& context);

  std::int64_t image_token_ = -1, padding_ = -1, beginning_ = 0;
  nn::InputSite pixels_{"pixel_values"};
  std::unique_ptr<VisualEncoder> vision_;
  std::unique_ptr<CausalLm> causal_;
  std::unique_ptr<T5> t5_;
};

}  // namespace mmtune::backbones
