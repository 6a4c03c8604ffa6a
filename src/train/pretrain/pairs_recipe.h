#pragma once
// The recipe of a pretraining on pairs (`task = "pretrain_pairs"`): a small ViLT from masked words and image-text matching.

#include <cstdint>
#include <string>

#include "core/options.h"
#include "train/pretrain/recipe.h"

namespace mmtune::train {

/// The encoder that is made, in the words of transformers' ViltConfig.
struct PairsModelSection : PretrainModelSection {
  std::int64_t positions = 40;
  std::int64_t vocabulary = 3500;
  std::string words;
};
void declare(OptionVisitor& visitor, PairsModelSection& section);

/// The scenes that are composed of the pictures, and what is said of them.
struct ScenesSection {
  double whole = 0.35;
  std::int64_t most = 4;
  double repeat = 0.4;
  double ground = 0.3;
};
void declare(OptionVisitor& visitor, ScenesSection& section);

/// The two tasks.
struct PairsTaskSection {
  double masked_words = 0.5;
  double mask = 0.25;
  double wrong = 0.5;
  double word_weight = 1.0;
  double match_weight = 1.0;
  std::int64_t measured = 2000;
};
void declare(OptionVisitor& visitor, PairsTaskSection& section);

struct PairsRecipe {
  std::string task = "pretrain_pairs";
  PretrainDataSection data;
  PairsModelSection model;
  ScenesSection scenes;
  PairsTaskSection tasks;
  PretrainLoopSection train;
};
void declare(OptionVisitor& visitor, PairsRecipe& recipe);

}  // namespace mmtune::train
