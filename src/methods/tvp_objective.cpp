#include "methods/tvp_objective.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "core/error.h"

namespace mmtune::methods {

namespace {

/// The mean over all tokens of all kinds, each kind in its own width.
at::Tensor consistency(std::span<const at::Tensor> prompted, std::span<const at::Tensor> clean) {
  std::int64_t tokens = 0;
  for (const at::Tensor& one : prompted) tokens += one.size(1);
  at::Tensor sum;
  for (std::size_t i = 0; i < prompted.size(); ++i) {
    const at::Tensor part =
        feature_consistency(prompted[i], clean[i]) * (static_cast<double>(prompted[i].size(1)) / static_cast<double>(tokens));
    sum = sum.defined() ? sum + part : part;
  }
  return sum;
}

/// Those of examples [begin, begin + count); one for all stays one for all.
std::vector<backbones::Instruction> part_of(const std::vector<backbones::Instruction>& all, std::int64_t begin, std::int64_t count) {
  if (all.size() == 1) return all;
  return {all.begin() + begin, all.begin() + begin + count};
}

}  // namespace

Objective::Objective(const ObjectiveOptions& options, const experts::PixelPrompt& prompt, std::vector<Source>& sources,
                     CaptionModel* caption_model, at::Tensor captions, std::vector<std::int64_t> caption_of)
    : options_(options),
      prompt_(prompt),
      sources_(sources),
      caption_model_(caption_model),
      captions_(std::move(captions)),
      caption_of_(std::move(caption_of)) {
  MMTUNE_ASSERT(options.tse == 0 || (caption_model != nullptr && captions_.defined()));
}

nn::Context Objective::context() const {
  nn::Context context;
  context.matmul_precision = options_.matmul_precision;
  context.recompute = options_.recompute;
  return context;
}

ObjectiveValue Objective::operator()(const data::Dataset& dataset, const PromptBatch& batch, experts::PatchPlace place) {
  ObjectiveValue value;
  for (Source& source : sources_) source_terms(source, dataset, batch, place, value);
  const auto models = static_cast<double>(sources_.size());
  for (const double main : value.main) value.total += main / models;
  for (const double fca : value.fca) value.total += options_.fca * fca / models;
  if (options_.tse > 0) {
    value.tse = semantics(batch, place);
    value.total -= options_.tse * value.tse;
  }
  return value;
}

void Objective::source_terms(Source& source, const data::Dataset& dataset, const PromptBatch& batch, experts::PatchPlace place,
                             ObjectiveValue& value) {
  const auto all = static_cast<std::int64_t>(batch.examples.size());
  const std::int64_t step = options_.micro_batch > 0 ? std::min(options_.micro_batch, all) : all;
  const auto models = static_cast<double>(sources_.size());
  const std::vector<backbones::Instruction> instructions = source.questions->instructions(dataset, batch.examples);
  const std::vector<backbones::TokenIds> answers = source.questions->answers(dataset, batch.examples);
  std::int64_t tokens = 0;
  for (const backbones::TokenIds& answer : answers) tokens += static_cast<std::int64_t>(answer.size());
  // Nothing moves without a prompt. Features that were computed in another batch differ by rounding even then, and a length's gradient
  // does not know how short it is.
  const bool unmoved = prompt_.is_zero();
  double main = 0, fca = 0;
  for (std::int64_t begin = 0; begin < all; begin += step) {
    const std::int64_t count = std::min(step, all - begin);
    const std::vector<backbones::Instruction> asked = part_of(instructions, begin, count);
    const at::Tensor pixels = prompt_.input(batch.pictures.narrow(0, begin, count), source.model.norm, source.model.side, place);
    const backbones::VisualTokens visual = source.model.model->encode(pixels, asked, context());
    const std::span<const backbones::TokenIds> right(answers.data() + begin, static_cast<std::size_t>(count));
    const backbones::TaskLoss task = source.model.model->task_loss(visual.tokens, asked, right, context());
    main += task.sum.item<double>() / static_cast<double>(tokens);
    at::Tensor loss = task.sum / (static_cast<double>(tokens) * models);
    if (options_.fca > 0 && !unmoved) {
      const std::vector<at::Tensor> clean = clean_features(source, asked, batch, begin, count);
      const at::Tensor apart = options_.features == ConsistencyFeatures::projected
                                   ? feature_consistency(visual.tokens, projected(source, clean))
                                   : consistency(visual.features, clean);
      const double share = static_cast<double>(count) / static_cast<double>(all);
      fca += apart.item<double>() * share;
      loss = loss + apart * (options_.fca * share / models);
    }
    loss.backward();
  }
  value.main.push_back(main);
  if (options_.fca > 0) value.fca.push_back(fca);
}

std::vector<at::Tensor> Objective::clean_features(Source& source, std::span<const backbones::Instruction> instructions,
                                                  const PromptBatch& batch, std::int64_t begin, std::int64_t count) const {
  const auto from = static_cast<std::size_t>(begin), n = static_cast<std::size_t>(count);
  if (source.clean)
    if (auto rows = source.clean->rows(std::span(batch.examples).subspan(from, n), std::span(batch.flipped).subspan(from, n)))
      return std::move(*rows);
  const at::NoGradGuard no_grad;
  const at::Tensor pixels = experts::clean_input(batch.pictures.narrow(0, begin, count), source.model.norm, source.model.side);
  return source.model.model->encode(pixels, instructions, context()).features;
}

at::Tensor Objective::projected(Source& source, std::span<const at::Tensor> features) const {
  const at::NoGradGuard no_grad;
  return source.model.model->project(features, context());
}

double Objective::semantics(const PromptBatch& batch, experts::PatchPlace place) {
  const auto all = static_cast<std::int64_t>(batch.examples.size());
  const std::int64_t step = options_.micro_batch > 0 ? std::min(options_.micro_batch, all) : all;
  std::vector<std::int64_t> rows;
  for (const std::int64_t example : batch.examples) rows.push_back(caption_of_[static_cast<std::size_t>(example)]);
  const at::Tensor captions = captions_.index_select(0, at::tensor(rows, at::kLong));
  double value = 0;
  for (std::int64_t begin = 0; begin < all; begin += step) {
    const std::int64_t count = std::min(step, all - begin);
    const at::Tensor pixels = prompt_.input(batch.pictures.narrow(0, begin, count), caption_model_->norm(), caption_model_->side(), place);
    const double share = static_cast<double>(count) / static_cast<double>(all);
    const at::Tensor similarity = (*caption_model_)(pixels, captions.narrow(0, begin, count)) * share;
    value += similarity.item<double>();
    (similarity * -options_.tse).backward();
  }
  caption_model_->clamp_scale();
  return value;
}

}  // namespace mmtune::methods
