// Causal language models as models that answer: the question's tokens, as the tokenizer makes them, and the answer's behind them.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "backbones/causal_lm.h"
#include "backbones/taught_answers.h"
#include "core/error.h"

namespace mmtune::backbones {

namespace {

/// The tokens of a batch's texts, one of them for each of `rows`.
std::vector<std::vector<std::int64_t>> texts_of(const ModelInputs& inputs, const std::vector<std::int64_t>& rows) {
  const nn::Layout& layout = inputs.text_layout;
  const std::vector<std::int64_t> ids = numbers_of(inputs.input_ids);
  const std::vector<std::int64_t> there =
      layout.key_mask().defined() ? numbers_of(layout.key_mask()) : std::vector<std::int64_t>(ids.size(), 1);
  std::vector<std::vector<std::int64_t>> texts(static_cast<std::size_t>(layout.batch()));
  std::size_t place = 0;
  for (std::int64_t b = 0; b < layout.batch(); ++b) {
    for (std::int64_t i = 0; i < layout.length(b); ++i, ++place)
      if (there[place] != 0) texts[static_cast<std::size_t>(b)].push_back(ids[place]);
    if (texts[static_cast<std::size_t>(b)].size() < 2)
      throw Error({.what = "a question of fewer than two tokens",
                   .where = "text " + std::to_string(b + 1) + " of the batch",
                   .hint = "generate.instruction can put words around it"});
  }
  std::vector<std::vector<std::int64_t>> chosen;
  for (const std::int64_t row : rows) chosen.push_back(texts.at(static_cast<std::size_t>(row)));
  return chosen;
}

std::int64_t longest_of(const std::vector<std::vector<std::int64_t>>& texts) {
  std::size_t longest = 0;
  for (const auto& text : texts) longest = std::max(longest, text.size());
  return static_cast<std::int64_t>(longest);
}

}  // namespace

void CausalLm::read_tokens(const Config& config, const SequenceTokens& usual) {
  const std::int64_t padding = config.token("pad_token_id", usual.padding);
  tokens_.end = config.token("eos_token_id", usual.end);
  // What stands before an answer is a token that no answer has: the padding, unless it is the end as well.
  const bool unsaid = padding >= 0 && padding < vocabulary_ && padding != tokens_.end;
  tokens_.padding = tokens_.start = unsaid ? padding : config.token("bos_token_id", usual.start);
}

void CausalLm::set_noise(const SequenceNoise& noise) {
  if (noise.dropout > 0 || noise.drop_path > 0)
    throw UsageError({.what = "this backbone has no noise of its own",
                      .where = "generate.dropout, generate.drop_path",
                      .expected = "0 for " + info_.architecture,
                      .hint = "experts have a dropout"});
}

at::Tensor CausalLm::taught(const ModelInputs& inputs, const std::vector<std::int64_t>& rows, const at::Tensor& said,
                            const at::Tensor& wanted, const nn::Context& context) {
  std::vector<std::vector<std::int64_t>> whole = texts_of(inputs, rows);
  const TaughtAnswers answers = taught_answers(said, wanted);
  for (std::size_t b = 0; b < whole.size(); ++b) whole[b].insert(whole[b].end(), answers.read[b].begin(), answers.read[b].end());
  std::vector<std::int64_t> ids, lengths, places;
  if (context.examples == 0) {
    for (const auto& text : whole) {
      ids.insert(ids.end(), text.begin(), text.end());
      lengths.push_back(static_cast<std::int64_t>(text.size()));
    }
    const LanguageRows language{.embeds = embed(at::tensor(ids, at::kLong)), .layout = nn::Layout::packed(lengths), .positions = {}};
    const at::Tensor last = states(language, nullptr, answers.counts, context);
    return logits(last.index_select(0, nn::beside(at::tensor(answers.places, at::kLong), last)), context);
  }
  // Squares of gradients want as many rows of every example, the head's too. What stands behind a text is seen by nothing in it.
  const std::int64_t longest = longest_of(whole);
  std::int64_t first = 0;
  auto place = answers.places.begin();
  for (std::size_t b = 0; b < whole.size(); ++b) {
    const auto length = static_cast<std::int64_t>(whole[b].size());
    const std::int64_t skipped = static_cast<std::int64_t>(b) * longest + length - answers.counts[b] - first;
    for (; place != answers.places.end() && *place < first + answers.counts[b]; ++place) places.push_back(*place + skipped);
    first += answers.counts[b];
    whole[b].resize(static_cast<std::size_t>(longest), tokens_.padding);
    ids.insert(ids.end(), whole[b].begin(), whole[b].end());
  }
  const LanguageRows language{.embeds = embed(at::tensor(ids, at::kLong)),
                              .layout = nn::Layout::uniform(static_cast<std::int64_t>(whole.size()), longest),
                              .positions = {}};
  const at::Tensor all = logits(states(language, nullptr, {}, context), context);
  return all.index_select(0, nn::beside(at::tensor(places, at::kLong), all));
}

std::unique_ptr<CachedDecoder> CausalLm::begin(const ModelInputs& inputs, const std::vector<std::int64_t>& rows,
                                               const nn::Context& context) {
  const at::NoGradGuard no_grad;
  const std::vector<std::vector<std::int64_t>> asked = texts_of(inputs, rows);
  const auto batch = static_cast<std::int64_t>(asked.size());
  const std::int64_t longest = longest_of(asked) - 1;
  at::Tensor ids = at::full({batch, longest}, tokens_.padding, at::kLong), start = at::empty({batch}, at::kLong);
  at::Tensor there = at::zeros({batch, longest}, at::kBool);
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::vector<std::int64_t>& text = asked[static_cast<std::size_t>(b)];
    const auto length = static_cast<std::int64_t>(text.size()) - 1;
    std::copy_n(text.begin(), length, ids.data_ptr<std::int64_t>() + b * longest + longest - length);
    std::fill_n(there.data_ptr<bool>() + b * longest + longest - length, length, true);
    start.data_ptr<std::int64_t>()[b] = text.back();
  }
  const bool whole = there.all().item<bool>();
  const LanguageRows prompt{.embeds = embed(ids.flatten()),
                            .layout = nn::Layout::uniform(batch, longest, whole ? at::Tensor() : nn::beside(there, words_)),
                            .positions = {}};
  return begun_decoder(causal_decoder(*this, prompt, context), start);
}

}  // namespace mmtune::backbones
