#pragma once
// Pretraining of a small ViLT on scenes composed of pictures: masked words, and whether a text belongs to a picture.

#include "train/pretrain/loop.h"
#include "train/pretrain/pairs_recipe.h"

namespace mmtune::train {

/// Trains the encoder and writes it to `out`/model in the layout of transformers' ViltForMaskedLM (config.json, model.safetensors in
/// float16, vocab.txt, preprocessor_config.json), with the head of ViltForImageAndTextRetrieval (rank_output) beside it. run.json tells
/// what the finished model makes of scenes that it was not trained on. See run_pretraining(). Throws Error: bad data.
PretrainOutcome pretrain_pairs(PairsRecipe& recipe, const PretrainOptions& options);

}  // namespace mmtune::train
