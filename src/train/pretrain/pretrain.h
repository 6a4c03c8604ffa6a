#pragma once
// Pretraining of a small vision tower from nothing: alignment with texts, distillation from a teacher, or both.

#include "train/pretrain/loop.h"
#include "train/pretrain/recipe.h"

namespace mmtune::train {

/// Trains the tower and writes it to `out`/model: config.json, model.safetensors (float16), preprocessor_config.json (the layout of
/// transformers' ViTModel), and with a text encoder projection.safetensors: `text_projection.weight` [E, width] maps the class token's last
/// hidden state into the text encoder's space, `text_projection_mean.weight` the mean of the patches', `logit_scale` [] is the factor of
/// the cosine. A resumed training ends with the same bytes as one that was never stopped. Throws Error: bad data, a loss that is not
/// finite, a folder that is in use, exists or cannot be written.
PretrainOutcome pretrain(PretrainRecipe& recipe, const PretrainOptions& options);

}  // namespace mmtune::train
