#pragma once
// The recipe of `mmtune pretrain` for models that speak: a multimodal language model that answers about pictures, or a CLIP.

#include <cstdint>
#include <string>

#include "core/options.h"
#include "train/pretrain/recipe.h"

namespace mmtune::train {

struct AnswersDataSection {
  std::string pictures;
  std::int64_t workers = 1;
};
void declare(OptionVisitor& visitor, AnswersDataSection& section);

struct AnswersModelSection {
  std::string config, tokenizer;
};
void declare(OptionVisitor& visitor, AnswersModelSection& section);

/// How a picture is changed each time it is seen.
struct AnswersViewsSection {
  double min_area = 0.5, aspect = 1.2, whole = 0.3, colour = 0.2, grey = 0.0;
  double framed = 0.5;
};
void declare(OptionVisitor& visitor, AnswersViewsSection& section);

/// answer: the likelihood of answers to questions about pictures. contrast: pictures and texts compared (CLIP).
enum class AnswersTask { answer, contrast };

struct AnswersRecipe {
  AnswersTask task = AnswersTask::answer;
  AnswersDataSection data;
  AnswersModelSection model;
  AnswersViewsSection views;
  PretrainLoopSection train;
};
void declare(OptionVisitor& visitor, AnswersRecipe& recipe);

}  // namespace mmtune::train
