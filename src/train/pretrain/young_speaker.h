#pragma once
// A model that speaks of pictures, every tensor of it learning: for pretraining from nothing.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backbones/multimodal_lm.h"
#include "backbones/multimodal_text.h"
#include "core/json.h"
#include "experts/unfrozen.h"
#include "text/tokenizer.h"
#include "train/pretrain/answers_recipe.h"
#include "train/pretrain/pictures.h"

namespace mmtune::train {

/// One step's input.
struct SpeakerBatch {
  at::Tensor pixels;                    ///< [B, 3, S, S] float32, normalised
  std::vector<std::int64_t> pictures;   ///< in the list
  std::vector<std::int64_t> questions;  ///< which of each picture's questions or texts
};

class YoungSpeaker {
 public:
  /// A fresh model of the recipe's configuration. Throws Error or UsageError: a configuration that is none of these, a tokenizer of another
  /// size than the configuration's vocabulary, a picture without a question or text, an answer without tokens.
  YoungSpeaker(const AnswersRecipe& recipe, const PictureList& list);

  std::int64_t side() const { return side_; }
  const std::vector<nn::NamedTensor>& tensors() const { return unfrozen_->tensors(); }
  /// The mean loss of a batch, with a graph.
  at::Tensor loss(const SpeakerBatch& batch) const;
  /// Writes config.json, model.safetensors (float16, the names of published files), preprocessor_config.json and the tokenizer's files.
  void write(const std::filesystem::path& folder) const;

 private:
  at::Tensor answer_loss(const SpeakerBatch& batch) const;
  at::Tensor contrast_loss(const SpeakerBatch& batch) const;
  void read_questions();

  const AnswersRecipe& recipe_;
  const PictureList& list_;
  nn::MatmulPrecision precision_ = nn::MatmulPrecision::highest;
  Json config_;
  std::int64_t side_ = 0;
  std::unique_ptr<backbones::Backbone> backbone_;
  backbones::MultimodalLm* speaker_ = nullptr;  ///< null: CLIP
  std::unique_ptr<backbones::MultimodalText> text_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  std::unique_ptr<experts::UnfrozenTensors> unfrozen_;
  at::Tensor log_scale_;
  std::map<std::string, backbones::Instruction> instructions_;
  std::map<std::string, backbones::TokenIds> answers_;
};

}  // namespace mmtune::train
