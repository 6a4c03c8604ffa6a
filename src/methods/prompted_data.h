#pragma once
// What a prompted model is shown and asked: pictures in their frame, instructions, candidates and captions of a data set.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backbones/multimodal_text.h"
#include "data/dataset.h"
#include "methods/tvp_recipe.h"
#include "vision/image.h"

namespace mmtune::methods {

/// `text` with every "{}" replaced by `answer` and every "{text}" by the example's text. Throws Error naming the example where it has no
/// text and one is asked for.
std::string filled(const std::string& text, const std::string& answer, const data::Example& example);

/// How a picture is drawn from its file in a training step: nothing of it is drawn outside training.
struct PictureDraw {
  bool flip = false;
  /// Where the square of a picture that is none lies: a share of what the longer side leaves; nothing: the middle.
  std::optional<double> place;
};
/// The draws of an example in a step: functions of the seed, the step and the example's place in the batch.
PictureDraw drawn_picture(const TvpTrainSection& section, std::int64_t step, std::int64_t place);

/// A decoded picture as [3, F, F] float32 in [0, 1]: its square of `image` pixels in a black frame of `frame`.
at::Tensor framed_picture(const vision::Image& image, std::int64_t image_side, std::int64_t frame, const PictureDraw& draw = {});
/// Decodes the example's picture. Throws Error naming the example: none, unreadable.
vision::Image read_picture(const data::Example& example);

/// A data set's questions for one model: its instructions and candidates as token ids, tokenised once.
class Questions {
 public:
  /// Throws Error: a class without a text, a candidate that tokenises to nothing, an example that lacks a text that the instruction needs.
  Questions(const TvpQuestionSection& section, PromptTask task, const backbones::MultimodalText& text,
            const std::vector<std::string>& classes);

  /// One instruction for all examples, or one each.
  std::vector<backbones::Instruction> instructions(const data::Dataset& dataset, std::span<const std::int64_t> examples) const;
  bool same_for_all() const { return same_; }
  /// The right answers with their end symbols.
  std::vector<backbones::TokenIds> answers(const data::Dataset& dataset, std::span<const std::int64_t> examples) const;
  std::int64_t answer_tokens(std::int64_t label) const {
    return static_cast<std::int64_t>(answers_[static_cast<std::size_t>(label)].size());
  }
  /// Every class as it is scored.
  const std::vector<backbones::TokenIds>& candidates() const { return candidates_; }
  const std::string& instruction() const { return instruction_; }

 private:
  const backbones::MultimodalText& text_;
  std::string instruction_;
  bool same_ = true;
  backbones::Instruction shared_;
  std::vector<backbones::TokenIds> answers_, candidates_;
};

/// How a class is said: its name, or what question.names has for it. Throws UsageError for a name of what is no class.
std::vector<std::string> spoken_names(const TvpQuestionSection& section, const std::vector<std::string>& classes);

/// The captions of a data set's examples, each distinct one once; example i has text row_of[i].
struct Captions {
  std::vector<std::string> texts;
  std::vector<std::int64_t> row_of;
};
/// Throws as spoken_names and filled.
Captions captions_of(const TvpRecipe& recipe, const data::Dataset& dataset);

}  // namespace mmtune::methods
