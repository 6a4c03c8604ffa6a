#pragma once
// Multimodal language models (LLaVA, BLIP-2, InstructBLIP, MiniGPT-4, VPGTrans, BLIVA): an encoder of pictures and a connector make visual
// tokens, which a language model reads among the words of a prompt. What a prompt and its answer look like is each family's own
// (PromptFormat); everything here speaks of token ids, and backbones/multimodal_text.h makes them of words.

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backbones/backbone.h"
#include "backbones/cached_decoder.h"

namespace mmtune::backbones {

using TokenIds = std::vector<std::int64_t>;

enum class MultimodalFamily { llava, blip2, instructblip, minigpt4, vpgtrans, bliva };
std::string_view name_of(MultimodalFamily family);

/// The tokens that stand around visual tokens and instruction: before, V, behind, instruction, tail, answer. An encoder-decoder reads all
/// but the answer in its encoder.
struct PromptPieces {
  TokenIds before, behind, tail;
};

/// The sequences of a family. `training`: of the task loss. `scoring`: what the released code ranks candidates with, which for some
/// families is another one than that of training. `generation`: of questions that are answered in words.
struct PromptFormat {
  PromptPieces training, scoring, generation;
  TokenIds answer_end;         ///< what follows an answer in training: the end symbol
  bool scores_patches = true;  ///< false: the released code leaves BLIVA's patch tokens out when it ranks candidates
};

/// official: candidates are ranked as the family's released code does it (PromptFormat::scoring, no end symbol). consistent: in the very
/// sequence of training, end symbol and all visual tokens included.
enum class SequenceFormat { official, consistent };

/// What an example asks.
struct Instruction {
  TokenIds words;    ///< for the language model, without special tokens
  TokenIds qformer;  ///< [CLS] words [SEP] for a Q-Former that reads the instruction; empty for all others
};

/// What an encoder of pictures and a connector make of a batch.
struct VisualTokens {
  at::Tensor tokens;                 ///< [B, N, D], projected: what the language model reads
  std::vector<at::Tensor> features;  ///< before their projections, each [B, N_i, D_i]: project() makes `tokens` of them again
};

/// A token sum, so that micro-batches can be weighted by their answer tokens.
struct TaskLoss {
  at::Tensor sum;           ///< of the negative log-likelihoods of the answer tokens, a scalar
  std::int64_t tokens = 0;  ///< how many there are
  at::Tensor mean() const;
};

enum class ScoreReduction { mean, sum };

struct ScoreOptions {
  ScoreReduction reduction = ScoreReduction::mean;
  SequenceFormat format = SequenceFormat::official;
};

struct MultimodalInfo {
  MultimodalFamily family = MultimodalFamily::llava;
  std::int64_t image_height = 0, image_width = 0;
  std::array<double, 3> mean{}, std{};  ///< of the pixel values; from preprocessor_config.json, or CLIP's
  std::int64_t visual_tokens = 0;       ///< N
  std::int64_t width = 0;               ///< D, of the language model
  std::int64_t vocabulary = 0;
  bool reads_instruction = false;  ///< the visual tokens depend on the instruction (Q-Former with text)
  bool encoder_decoder = false;
};

/// Its forward() and forward_named() are HuggingFace's: input_ids with placeholders (image_token_id), attention_mask, pixel_values, and
/// where the family has them qformer_input_ids, qformer_attention_mask, decoder_input_ids, decoder_attention_mask → logits. Sites: the
/// linear maps of all parts, and the sublayers, keys and values, and sequences of the language model.
class MultimodalLm : public Backbone {
 public:
  const MultimodalInfo& multimodal() const { return multimodal_; }
  const PromptFormat& format() const { return format_; }
  void set_format(PromptFormat format) { format_ = std::move(format); }

  /// pixel_values [B, 3, H, W], normalised. `instructions`: one for all, or B; read only where info says so. Gradients flow to the pixels
  /// (and to experts); frozen maps keep no input. Throws Error on a picture of another size, and where an instruction is needed and lacks
  /// its Q-Former tokens.
  virtual VisualTokens encode(const at::Tensor& pixel_values, std::span<const Instruction> instructions, const nn::Context& context) = 0;
  /// The projections alone: `features` of encode() → tokens [B, N, D].
  virtual at::Tensor project(std::span<const at::Tensor> features, const nn::Context& context) = 0;

  /// The negative log-likelihood of the answers, whose tokens include the end symbol (PromptFormat::answer_end), in the family's sequence
  /// of training. Logits are computed at answer positions only. `visual` [B, N, D]; `instructions` one for all, or B; `answers` B, none
  /// empty. Differentiable with respect to `visual` and experts.
  virtual TaskLoss task_loss(const at::Tensor& visual, std::span<const Instruction> instructions, std::span<const TokenIds> answers,
                             const nn::Context& context) = 0;

  /// A prompt that was read, and the tokens [B, 1] that generation begins with: the first call of read() gives what follows them.
  struct Begun {
    std::unique_ptr<CachedDecoder> decoder;
    at::Tensor start;
  };
  /// Reads a prompt of `pieces`, all but its last token, for generation. No gradient flows. The model must outlive the decoder.
  virtual Begun begin(const at::Tensor& visual, std::span<const Instruction> instructions, const PromptPieces& pieces,
                      const nn::Context& context) = 0;

  /// Log-likelihood of every candidate behind every picture's prompt: [B, C] float32, mean or sum over the candidate's tokens. All
  /// candidates are read in one pass as a tree over the shared prompt. `candidates` as they are to be scored: without an end symbol in the
  /// official format, with it in the consistent one. Throws Error on a candidate without tokens. No gradient flows.
  virtual at::Tensor candidate_scores(const at::Tensor& visual, std::span<const Instruction> instructions,
                                      std::span<const TokenIds> candidates, const ScoreOptions& options, const nn::Context& context) = 0;

  /// Means and deviations of pixels from the folder's preprocessor_config.json; CLIP's stay where there is none.
  void read_norm(const std::filesystem::path& folder);

 protected:
  MultimodalInfo multimodal_;
  PromptFormat format_;
};

/// Opens a model folder as a multimodal language model. Throws Error where it is something else.
std::unique_ptr<MultimodalLm> open_multimodal_lm(const std::filesystem::path& folder, nn::Storage storage = nn::Storage::f32);

}  // namespace mmtune::backbones
