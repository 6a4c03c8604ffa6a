#pragma once
// Pretraining of a small multimodal language model, or of a small CLIP, from nothing.

#include "train/pretrain/answers_recipe.h"
#include "train/pretrain/loop.h"

namespace mmtune::train {

/// Trains the model and writes it to `out`/model, a folder of transformers' layout (YoungSpeaker::write). A resumed training ends with the
/// same bytes as one that was never stopped. Throws Error: bad data, a loss that is not finite, a folder that is in use, exists or cannot
/// be written.
PretrainOutcome pretrain_answers(AnswersRecipe& recipe, const PretrainOptions& options);

}  // namespace mmtune::train
