// Multimodal language models as models that answer: what the training of experts on them asks of a SequenceModel.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "backbones/chosen_rows.h"
#include "backbones/multimodal_model.h"
#include "backbones/taught_answers.h"
#include "core/error.h"

namespace mmtune::backbones {

namespace {

/// What a batch's texts ask: words for the language model (type 0), and those of a Q-Former (type 1).
std::vector<Instruction> instructions_of(const ModelInputs& inputs) {
  const nn::Layout& layout = inputs.text_layout;
  const TokenIds ids = numbers_of(inputs.input_ids);
  const TokenIds types = inputs.token_type_ids.defined() ? numbers_of(inputs.token_type_ids) : TokenIds(ids.size(), 0);
  const TokenIds there = layout.key_mask().defined() ? numbers_of(layout.key_mask()) : TokenIds(ids.size(), 1);
  std::vector<Instruction> all;
  std::size_t place = 0;
  for (std::int64_t b = 0; b < layout.batch(); ++b) {
    Instruction one;
    for (std::int64_t i = 0; i < layout.length(b); ++i, ++place)
      if (there[place] != 0) (types[place] == 0 ? one.words : one.qformer).push_back(ids[place]);
    all.push_back(std::move(one));
  }
  return all;
}

}  // namespace

SequenceTokens MultimodalModel::tokens() const {
  if (format_.answer_end.size() != 1)
    throw Error({.what = "an answer of this family ends with several tokens, and cannot be learned as a sequence",
                 .where = std::string(name_of(multimodal_.family)),
                 .expected = "one token that ends an answer",
                 .got = std::to_string(format_.answer_end.size())});
  if (t5_) return {.start = t5_->shape().start, .padding = t5_->shape().padding, .end = format_.answer_end.front()};
  // A token that no answer has: the padding, unless it is the end as well.
  const std::int64_t end = format_.answer_end.front();
  const std::int64_t unsaid = padding_ >= 0 && padding_ < multimodal_.vocabulary && padding_ != end ? padding_ : beginning_;
  return {.start = unsaid, .padding = unsaid, .end = end};
}

void MultimodalModel::set_noise(const SequenceNoise& noise) {
  if (noise.dropout > 0 || noise.drop_path > 0)
    throw UsageError({.what = "a multimodal language model has no noise of its own",
                      .where = "generate.dropout, generate.drop_path",
                      .expected = "0",
                      .hint = "experts have a dropout"});
}

MultimodalModel::Asked MultimodalModel::asked(const ModelInputs& inputs, const std::vector<std::int64_t>& rows,
                                              const nn::Context& context) {
  if (!inputs.pixel_values.defined())
    throw Error({.what = "no pictures", .where = std::string(name_of(multimodal_.family)), .expected = "one for every question"});
  const std::vector<Instruction> distinct = instructions_of(inputs);
  const at::Tensor visual = encode(inputs.pixel_values, distinct, context).tokens;
  Asked asked;
  for (const std::int64_t row : rows) asked.instructions.push_back(distinct.at(static_cast<std::size_t>(row)));
  const bool same = all_in_order(rows, static_cast<std::int64_t>(distinct.size()));
  asked.visual = same ? visual : visual.index_select(0, nn::beside(at::tensor(rows, at::kLong), visual));
  return asked;
}

at::Tensor MultimodalModel::taught(const ModelInputs& inputs, const std::vector<std::int64_t>& rows, const at::Tensor& said,
                                   const at::Tensor& wanted, const nn::Context& context) {
  const Asked all = asked(inputs, rows, context);
  at::Tensor states;
  std::vector<std::int64_t> places;  // of what is learned, among the states
  if (t5_) {
    const LanguageRows source = padded(prompts(all.visual, all.instructions, format_.training, {}), false);
    states = t5_->decode(said.to(at::kCPU), {}, t5_->encode(source.embeds, source.layout, context), source.layout, context);
    places = numbers_of(wanted.to(at::kCPU).flatten().nonzero());
  } else {
    TaughtAnswers answers = taught_answers(said, wanted);
    const Prompts whole = prompts(all.visual, all.instructions, format_.training, answers.read);
    const LanguageRows language{.embeds = whole.rows, .layout = nn::Layout::packed(whole.lengths), .positions = {}};
    states = causal_->states(language, nullptr, answers.counts, context);
    places = std::move(answers.places);
  }
  const at::Tensor chosen = states.index_select(0, nn::beside(at::tensor(places, at::kLong), states));
  return causal_ ? causal_->logits(chosen, context) : t5_->logits(chosen, context);
}

std::unique_ptr<CachedDecoder> MultimodalModel::begin(const ModelInputs& inputs, const std::vector<std::int64_t>& rows,
                                                      const nn::Context& context) {
  const at::NoGradGuard no_grad;
  const Asked all = asked(inputs, rows, context);
  Begun begun = begin(all.visual, all.instructions, format_.training, context);
  if (t5_) return std::move(begun.decoder);
  return begun_decoder(std::move(begun.decoder), begun.start.flatten());
}

}  // namespace mmtune::backbones
