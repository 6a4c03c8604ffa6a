#include "backbones/causal_lm.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "backbones/named_inputs.h"
#include "core/error.h"
#include "nn/recompute.h"
#include "nn/squared_gradients.h"

namespace mmtune::backbones {

namespace {

/// The number of every visible row among the visible rows of its sequence; masked rows have that of the last visible one before them.
at::Tensor counted(const nn::Layout& layout) {
  if (!layout.key_mask().defined())
    return nn::positions_within(layout, 0, *std::max_element(layout.lengths().begin(), layout.lengths().end()));
  return (layout.key_mask().to(at::kLong).cumsum(1) - 1).clamp_min(0).flatten();
}

/// Where the last `last[b]` rows of every sequence stand.
at::Tensor last_rows(const nn::Layout& layout, const std::vector<std::int64_t>& last) {
  at::Tensor index = at::empty({std::accumulate(last.begin(), last.end(), std::int64_t{0})}, at::kLong);
  auto* out = index.data_ptr<std::int64_t>();
  std::int64_t end = 0;
  for (std::int64_t b = 0; b < layout.batch(); ++b) {
    end += layout.length(b);
    const std::int64_t count = last[static_cast<std::size_t>(b)];
    MMTUNE_ASSERT(count >= 1 && count <= layout.length(b));
    for (std::int64_t i = end - count; i < end; ++i) *out++ = i;
  }
  return index;
}

/// Whether one causal triangle serves the last rows of all sequences.
bool one_triangle(const nn::Layout& layout, const std::vector<std::int64_t>& last) {
  if (layout.key_mask().defined()) return false;
  const auto ahead = [&](std::int64_t b) { return layout.length(b) - last[static_cast<std::size_t>(b)]; };
  for (std::int64_t b = 1; b < layout.batch(); ++b)
    if (ahead(b) != ahead(0)) return false;
  return true;
}

/// The positions of rows of which an expert has put `tokens.prompt_count` among them.
at::Tensor with_prompts(const at::Tensor& positions, const nn::Layout& layout, const nn::Tokens& tokens) {
  if (tokens.prompt_count == 0) return positions;
  nn::Tokens numbers{(positions + tokens.prompt_count).unsqueeze(1), layout};
  numbers.insert_prompts(at::arange(tokens.prompt_count, positions.options()).unsqueeze(1), tokens.prompt_at);
  return numbers.rows.flatten();
}

}  // namespace

void CausalLm::finish_construction(const nn::Weights& body, const nn::Weights& head, bool tied) {
  tied_ = tied;
  if (!tied && head.has("weight")) head_ = std::make_unique<nn::Linear>(head, embedding_width_, vocabulary_, info_.layers, false);
  for (const auto& block : blocks_) {
    const auto layer = static_cast<std::int64_t>(sequence_sites_.size());
    sequence_sites_.push_back(
        {.name = (body / "layers" / layer).path(), .width = info_.width, .layer = layer, .last = block == blocks_.back(), .causal = true});
  }
  word_site_ = {.name = (body / "embed_tokens").path(), .width = embedding_width_};
  sites_.words = &word_site_;
  sites_.tensors.insert(sites_.tensors.begin(), {word_site_.name + ".weight", &words_});
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    sites_.sequences.push_back(&sequence_sites_[i]);
    blocks_[i]->list(sites_);
  }
  if (head_) head_->list(sites_);
}

at::Tensor CausalLm::embed(const at::Tensor& ids) const {
  return nn::lookup(words_, nn::beside(ids, words_));
}

at::Tensor CausalLm::states(const LanguageRows& given, ReadingCache* cache, const std::vector<std::int64_t>& last,
                            const nn::Context& context) {
  const bool fresh = cache == nullptr || !cache->visible.defined();
  at::Tensor positions = given.positions.defined() ? given.positions : counted(given.layout);
  nn::Tokens tokens{given.embeds, given.layout};
  if (word_site_.first_place > 0) positions = positions + word_site_.first_place;
  if (fresh && word_site_.prompts.defined()) {
    tokens.insert_prompts(nn::dropout(nn::spread(word_site_.prompts, context), word_site_.dropout, context), 0);
    positions = with_prompts(positions, given.layout, tokens);
    tokens.prompt_count = 0;
  }
  const nn::Layout layout = tokens.layout;
  tokens.rows = enter(tokens.rows, positions, context);
  const nn::Rotation usual = rotation(positions);

  std::optional<LanguageAttention::Narrow> narrow;
  if (!last.empty() && cache == nullptr && one_triangle(layout, last))
    narrow = LanguageAttention::Narrow{nn::beside(last_rows(layout, last), tokens.rows), nn::Layout::packed(last)};
  bool narrowed = false;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    nn::SequenceHook* const hook = cache != nullptr && cache->blocks[i].length() > 0 ? nullptr : sequence_sites_[i].hook;
    const bool narrows = narrow && i + 1 == blocks_.size() && hook == nullptr && tokens.prompt_count == 0;
    // By value: with gradient checkpointing the block is computed again when this function has long returned.
    nn::run_block(tokens, context, [=, this](nn::Tokens& inner, const nn::Context& with) {
      if (hook != nullptr) hook->before_block(inner, with);
      LanguageAttention::Pass pass{.rotation = usual, .narrow = narrows ? &*narrow : nullptr, .cache = cache, .block = i};
      std::int64_t extra = 0;  // rows of an expert that stand in this block's cache alone
      if (cache != nullptr && !fresh) extra = cache->blocks[i].length() - cache->visible.size(1);
      if (usual.defined() && inner.prompt_count > 0) pass.rotation = rotation(with_prompts(positions, layout, inner));
      if (usual.defined() && extra > 0) pass.rotation = rotation(positions + extra);
      (*blocks_[i])(inner, pass, with);
      if (hook != nullptr) hook->after_block(inner, with);
    });
    narrowed = narrows;
  }
  if (tokens.prompt_count > 0) tokens.remove_prompts();
  if (cache != nullptr && cache->keep) {
    at::Tensor seen = layout.key_mask();
    if (!seen.defined())
      seen = at::ones({layout.batch(), layout.length(0)}, at::TensorOptions().dtype(at::kBool).device(tokens.rows.device()));
    cache->visible = cache->visible.defined() ? at::cat({cache->visible, seen}, 1) : seen;
    const at::Tensor counts = cache->visible.sum(1).to(at::kCPU);
    cache->lengths.clear();
    for (std::int64_t b = 0; b < layout.batch(); ++b) cache->lengths.push_back(counts[b].item<std::int64_t>());
  }
  if (!narrowed && !last.empty()) {
    tokens.rows = tokens.rows.index_select(0, nn::beside(last_rows(layout, last), tokens.rows));
  } else if (!narrowed && layout.rows() != given.layout.rows()) {
    tokens.rows = tokens.rows.index_select(0, nn::beside(last_rows(layout, given.layout.lengths()), tokens.rows));
  }
  return leave(tokens.rows, context);
}

at::Tensor CausalLm::logits(const at::Tensor& states, const nn::Context& context) const {
  if (head_) return (*head_)(states, context);
  if (!tied_) throw Error({.what = "the checkpoint has no head that predicts words", .where = "lm_head.weight"});
  return nn::frozen_matrix(states, words_, {}, context.matmul_precision);
}

ModelOutputs CausalLm::forward(const ModelInputs& inputs, const nn::Context& context) {
  LanguageRows rows{inputs.inputs_embeds.defined() ? inputs.inputs_embeds : embed(inputs.input_ids), inputs.text_layout,
                    inputs.position_ids};
  return {.last_hidden_state = states(rows, nullptr, {}, context), .layout = inputs.text_layout};
}

TensorMap CausalLm::forward_named(const TensorMap& inputs, const nn::Context& context) {
  const ModelInputs rows = text_inputs(inputs, vocabulary_, 1, positions_, embedding_width_);
  const at::Tensor states = forward(rows, context).last_hidden_state;
  const std::int64_t batch = rows.text_layout.batch();
  TensorMap result{{"last_hidden_state", states.view({batch, -1, embedding_width_})}};
  if (has_head()) result["logits"] = logits(states, context).view({batch, -1, vocabulary_});
  return result;
}

std::int64_t CausalLm::reading_macs(std::int64_t tokens, std::int64_t predicted) const {
  return info_.layers * blocks_.front()->macs(tokens) + predicted * embedding_width_ * vocabulary_;
}

std::int64_t CausalLm::macs(std::int64_t tokens, bool) const {
  return reading_macs(tokens, 0);
}

}  // namespace mmtune::backbones
