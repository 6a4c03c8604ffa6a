#include "methods/prompted_data.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "core/error.h"
#include "core/hash.h"
#include "core/nearest.h"
#include "data/random.h"
#include "vision/frame.h"

namespace mmtune::methods {

namespace {

constexpr std::uint64_t picture_stream = 7;

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + by.size())) text.replace(at, what.size(), by);
  return text;
}

}  // namespace

std::string filled(const std::string& text, const std::string& answer, const data::Example& example) {
  std::string result = replaced(text, "{}", answer);
  if (result.find("{text}") == std::string::npos) return result;
  if (!example.text)
    throw Error({.what = "the example has no text, which the question needs",
                 .where = "example " + printable(example.id),
                 .expected = "the field text",
                 .hint = "map the file's field with data.columns"});
  return replaced(std::move(result), "{text}", *example.text);
}

PictureDraw drawn_picture(const TvpTrainSection& section, std::int64_t step, std::int64_t place) {
  const auto seed = mix_seed(static_cast<std::uint64_t>(section.seed), picture_stream);
  data::Random random(mix_seed(mix_seed(seed, static_cast<std::uint64_t>(step)), static_cast<std::uint64_t>(place)));
  const bool flip = random.below(2) == 1;
  const double share = static_cast<double>(random.below(std::uint64_t{1} << 53)) / static_cast<double>(std::uint64_t{1} << 53);
  return {.flip = section.flip && flip, .place = section.crop ? std::optional(share) : std::nullopt};
}

at::Tensor framed_picture(const vision::Image& image, std::int64_t image_side, std::int64_t frame, const PictureDraw& draw) {
  std::optional<vision::Offset> offset;
  if (draw.place) {
    const vision::Size size = vision::shorter_side_size({image.width, image.height}, image_side);
    const auto at = [&](std::int64_t side) {
      return std::min<std::int64_t>(static_cast<std::int64_t>(*draw.place * static_cast<double>(side - image_side + 1)), side - image_side);
    };
    offset = vision::Offset{at(size.width), at(size.height)};
  }
  const std::vector<float> values = vision::framed(vision::fit_square(image, image_side, draw.flip, offset), frame);
  at::Tensor result = at::empty({3, frame, frame}, at::kFloat);
  std::memcpy(result.data_ptr<float>(), values.data(), values.size() * sizeof(float));
  return result;
}

vision::Image read_picture(const data::Example& example) {
  if (!example.image)
    throw Error({.what = "the example has no picture",
                 .where = "example " + printable(example.id),
                 .expected = "the field image",
                 .hint = "map the file's field with data.columns"});
  try {
    return data::read_picture(*example.image);
  } catch (const Error& error) {
    throw Error({.what = error.what(), .where = "example " + printable(example.id)});
  }
}

std::vector<std::string> spoken_names(const TvpQuestionSection& section, const std::vector<std::string>& classes) {
  for (const auto& [label, name] : section.names) {
    if (std::find(classes.begin(), classes.end(), label) != classes.end()) continue;
    const auto close = nearest(label, classes);
    throw UsageError({.what = "a name for what is no class",
                      .where = "question.names",
                      .got = "\"" + printable(label) + "\"",
                      .hint = close ? "did you mean \"" + printable(*close) + "\"?" : ""});
  }
  std::vector<std::string> names;
  for (const std::string& label : classes) {
    const auto named = section.names.find(label);
    names.push_back(named == section.names.end() ? label : named->second);
  }
  return names;
}

Captions captions_of(const TvpRecipe& recipe, const data::Dataset& dataset) {
  const std::vector<std::string> names = spoken_names(recipe.question, dataset.classes);
  Captions captions;
  std::map<std::string, std::int64_t> rows;
  for (const data::Example& example : dataset.examples) {
    const std::string text = filled(recipe.expert.caption, names[static_cast<std::size_t>(example.labels.front())], example);
    const auto [found, fresh] = rows.try_emplace(text, static_cast<std::int64_t>(captions.texts.size()));
    if (fresh) captions.texts.push_back(text);
    captions.row_of.push_back(found->second);
  }
  return captions;
}

Questions::Questions(const TvpQuestionSection& section, PromptTask task, const backbones::MultimodalText& text,
                     const std::vector<std::string>& classes)
    : text_(text), instruction_(section.instruction.empty() ? usual_instruction(task) : section.instruction) {
  if ((task == PromptTask::yes_no || task == PromptTask::detect) && classes.size() != 2)
    throw UsageError({.what = "the task has two answers",
                      .where = "task",
                      .expected = "two classes, as in data.classes = [\"no\", \"yes\"]",
                      .got = std::to_string(classes.size())});
  same_ = instruction_.find("{text}") == std::string::npos;
  if (same_) shared_ = text.instruction(instruction_);
  for (const std::string& name : spoken_names(section, classes)) {
    answers_.push_back(text.answer(name));
    candidates_.push_back(text.candidate(name, section.format));
  }
}

std::vector<backbones::Instruction> Questions::instructions(const data::Dataset& dataset, std::span<const std::int64_t> examples) const {
  if (same_) return {shared_};
  std::vector<backbones::Instruction> all;
  for (const std::int64_t index : examples)
    all.push_back(text_.instruction(filled(instruction_, "", dataset.examples[static_cast<std::size_t>(index)])));
  return all;
}

std::vector<backbones::TokenIds> Questions::answers(const data::Dataset& dataset, std::span<const std::int64_t> examples) const {
  std::vector<backbones::TokenIds> all;
  for (const std::int64_t index : examples)
    all.push_back(answers_[static_cast<std::size_t>(dataset.examples[static_cast<std::size_t>(index)].labels.front())]);
  return all;
}

}  // namespace mmtune::methods
