#include "backbones/ofa_decoder.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "backbones/token_tree.h"
#include "core/error.h"

namespace mmtune::backbones {

namespace {

constexpr double hidden_score = -1e30;
constexpr std::int64_t positions_at_once = 32;
/// Nodes of a tree that are read together, and rows whose scores over the vocabulary are made together.
constexpr std::int64_t nodes_at_once = 512, rows_at_once = 256;

at::Tensor to_index(const std::vector<std::int64_t>& indices) {
  return at::tensor(indices, at::kLong);
}

}  // namespace

std::unique_ptr<CachedDecoder> Ofa::decoder(const OfaEncoded& encoded, const nn::Context& context) {
  return std::make_unique<OfaDecoder>(*this, encoded, context);
}

OfaDecoder::OfaDecoder(const Ofa& model, const OfaEncoded& encoded, const nn::Context& context) : model_(model), context_(context) {
  const at::NoGradGuard no_grad;
  context_.training = false;
  const std::int64_t batch = encoded.layout.batch();
  past_.resize(model.decoder_.layers.size());
  for (const auto& layer : model.decoder_.layers) sources_.push_back(layer->cross().source_keys(encoded.rows.detach(), batch, context_));
  source_of_.resize(static_cast<std::size_t>(batch));
  std::iota(source_of_.begin(), source_of_.end(), 0);
  source_mask_ = at::zeros({batch, encoded.layout.length(0)}, encoded.rows.options().requires_grad(false));
  if (const at::Tensor& there = encoded.layout.key_mask(); there.defined())
    source_mask_.masked_fill_(there.logical_or(there.any(1, true).logical_not()).logical_not(), -std::numeric_limits<double>::infinity());
  source_positions_ = model.heads_of((*model.cross_k_)(encoded.positions, {})).transpose(1, 2);
}

void OfaDecoder::prepare_positions(std::int64_t count) {
  const std::int64_t ready = self_queries_.defined() ? self_queries_.size(1) : 0;
  const std::int64_t table = model_.decoder_.positions.size(0);
  if (count > table)
    throw Error({.what = "a text is longer than the position table",
                 .expected = "at most " + std::to_string(table) + " tokens",
                 .got = std::to_string(count)});
  if (count <= ready) return;
  const std::int64_t next = std::min(table, std::max(count, ready + positions_at_once));
  const at::Tensor positions = (*model_.decoder_.position_norm)(model_.decoder_.positions.narrow(0, ready, next - ready));
  const auto add = [&](at::Tensor& all, const nn::Linear& map, double scale) {
    const at::Tensor more = model_.heads_of(map(positions, {}) * scale);
    all = all.defined() ? at::cat({all, more}, 1) : more;
  };
  add(self_queries_, *model_.self_q_, model_.position_scale());
  add(self_keys_, *model_.self_k_, 1.0);
  add(cross_queries_, *model_.cross_q_, model_.position_scale());
}

/// Which lines ask which sources for words at `places`.
OfaAsking OfaDecoder::asking(const std::vector<std::int64_t>& places) const {
  const std::int64_t batch = source_mask_.size(0), heads = model_.shape().heads, length = static_cast<std::int64_t>(places.size());
  std::vector<std::int64_t> slot, count(static_cast<std::size_t>(batch), 0);
  for (const std::int64_t source : source_of_) slot.push_back(count[static_cast<std::size_t>(source)]++);
  OfaAsking asking{.slot = {}, .most = *std::max_element(count.begin(), count.end()), .bias = {}};
  for (std::size_t line = 0; line < slot.size(); ++line) slot[line] += source_of_[line] * asking.most;
  asking.slot = nn::beside(to_index(slot), source_mask_);
  const at::Tensor own = cross_queries_.index_select(1, nn::beside(to_index(places), cross_queries_)).matmul(source_positions_);
  asking.bias = (own.unsqueeze(0) + source_mask_.view({batch, 1, 1, -1})).unsqueeze(2).expand({batch, heads, asking.most, length, -1});
  asking.bias = asking.bias.reshape({batch, heads, asking.most * length, -1});
  return asking;
}

at::Tensor OfaDecoder::pass(const at::Tensor& words, const std::vector<std::int64_t>& places, const at::Tensor& hidden, bool keep) {
  const std::int64_t lines = words.size(0), length = words.size(1), width = model_.shape().width;
  const Ofa::Side& side = model_.decoder_;
  at::Tensor x = (*side.embedding_norm)(nn::lookup(model_.embedding_, nn::beside(words, model_.embedding_)).view({-1, width}));
  const nn::Layout layout = nn::Layout::uniform(lines, length);
  std::vector<std::int64_t> seen(static_cast<std::size_t>(length_));
  std::iota(seen.begin(), seen.end(), 0);
  seen.insert(seen.end(), places.begin(), places.end());
  const at::Tensor from = to_index(places), to = to_index(seen);
  at::Tensor base =
      self_queries_.index_select(1, nn::beside(from, x)).matmul(self_keys_.index_select(1, nn::beside(to, x)).transpose(1, 2));
  if (hidden.defined()) base = base + nn::beside(hidden, base);
  const at::Tensor buckets = nn::beside(model_.token_buckets_.index_select(0, from).index_select(1, to), x);
  const OfaAsking asked = asking(places);
  for (std::size_t l = 0; l < side.layers.size(); ++l) {
    const at::Tensor bias = base + at::embedding(side.token_tables[l], buckets).permute({2, 0, 1});
    x = side.layers[l]->behind(
        x, layout, {.past = &past_[l], .keep = keep, .bias = &bias, .causal = !hidden.defined(), .source = &sources_[l], .asking = &asked},
        context_);
  }
  return (*side.norm)(x);
}

at::Tensor OfaDecoder::logits(const at::Tensor& hidden) const {
  return nn::frozen_matrix(hidden, model_.embedding_).to(at::kFloat);
}

at::Tensor OfaDecoder::read(const at::Tensor& tokens) {
  const at::NoGradGuard no_grad;
  const std::int64_t length = tokens.size(1);
  MMTUNE_ASSERT(tokens.size(0) == batch() && length > 0);
  prepare_positions(length_ + length);
  std::vector<std::int64_t> places(static_cast<std::size_t>(length));
  std::iota(places.begin(), places.end(), length_);
  const at::Tensor x = pass(tokens, places, {}, true);
  length_ += length;
  last_ = logits(x.view({batch(), length, -1}).select(1, length - 1));
  return last_;
}

void OfaDecoder::select(const at::Tensor& rows) {
  const at::NoGradGuard no_grad;
  const at::Tensor chosen = nn::beside(rows, source_mask_);
  for (OfaPast& past : past_)
    if (past.keys.defined()) past = {past.keys.index_select(0, chosen), past.values.index_select(0, chosen)};
  if (last_.defined()) last_ = last_.index_select(0, chosen);
  // The sources that are still asked for keep their order.
  std::vector<std::int64_t> lines, kept, number(static_cast<std::size_t>(source_mask_.size(0)), -1);
  const at::Tensor own = rows.to(at::kCPU).contiguous();
  for (std::int64_t i = 0; i < own.size(0); ++i)
    lines.push_back(source_of_[static_cast<std::size_t>(own.const_data_ptr<std::int64_t>()[i])]);
  for (const std::int64_t source : lines) number[static_cast<std::size_t>(source)] = 0;
  for (std::size_t source = 0; source < number.size(); ++source) {
    if (number[source] < 0) continue;
    number[source] = static_cast<std::int64_t>(kept.size());
    kept.push_back(static_cast<std::int64_t>(source));
  }
  for (std::int64_t& source : lines) source = number[static_cast<std::size_t>(source)];
  source_of_ = std::move(lines);
  if (kept.size() == number.size()) return;
  const at::Tensor index = nn::beside(to_index(kept), source_mask_);
  for (OfaSourceKeys& source : sources_) source = {source.keys.index_select(0, index), source.values.index_select(0, index)};
  source_mask_ = source_mask_.index_select(0, index);
}

/// Only nodes that something follows are read; what follows them is compared by their logits.
at::Tensor OfaDecoder::tree(const at::Tensor& tokens, const at::Tensor& parents, bool normalised) {
  const at::NoGradGuard no_grad;
  MMTUNE_ASSERT(last_.defined());
  const at::Tensor own_tokens = tokens.to(at::kCPU).contiguous(), own_parents = parents.to(at::kCPU).contiguous();
  const std::int64_t lines = batch(), count = own_tokens.size(0), width = model_.shape().width;
  const std::vector<std::int64_t> parent_of(own_parents.const_data_ptr<std::int64_t>(), own_parents.const_data_ptr<std::int64_t>() + count);
  std::vector<std::vector<std::int64_t>> children(static_cast<std::size_t>(count + 1));
  for (std::int64_t node = 0; node < count; ++node)
    children[static_cast<std::size_t>(parent_of[static_cast<std::size_t>(node)] + 1)].push_back(node);
  at::Tensor result = at::empty({lines, count}, last_.options());
  // Of the children of some parents, whose logits [n, parents, V] are there.
  const auto note = [&](const at::Tensor& scores, const std::vector<std::int64_t>& of) {
    const at::Tensor among = normalised ? scores - scores.logsumexp({2}, true) : scores;
    std::vector<std::int64_t> nodes, places;
    for (std::size_t i = 0; i < of.size(); ++i)
      for (const std::int64_t child : children[static_cast<std::size_t>(of[i] + 1)]) {
        nodes.push_back(child);
        places.push_back(static_cast<std::int64_t>(i) * scores.size(2) + own_tokens.const_data_ptr<std::int64_t>()[child]);
      }
    result.index_copy_(1, nn::beside(to_index(nodes), result), among.flatten(1).index_select(1, nn::beside(to_index(places), result)));
  };
  note(last_.unsqueeze(1), {-1});
  for (const TokenTreePart& part : inner_parts(parent_of, nodes_at_once)) {
    const auto size = static_cast<std::int64_t>(part.nodes.size());
    std::vector<std::int64_t> words, places;
    at::Tensor hidden = at::full({size, length_ + size}, hidden_score);
    hidden.narrow(1, 0, length_).zero_();
    for (std::int64_t i = 0; i < size; ++i) {
      const auto at = static_cast<std::size_t>(i);
      words.push_back(own_tokens.const_data_ptr<std::int64_t>()[part.nodes[at]]);
      places.push_back(length_ + part.depths[at]);
      for (std::int64_t node = i; node >= 0; node = part.parents[static_cast<std::size_t>(node)])
        hidden.data_ptr<float>()[i * (length_ + size) + length_ + node] = 0;
    }
    prepare_positions(*std::max_element(places.begin(), places.end()) + 1);
    const at::Tensor states = pass(to_index(words).unsqueeze(0).expand({lines, -1}), places, hidden, false).view({lines, size, width});
    const std::int64_t step = std::max<std::int64_t>(1, rows_at_once / lines);
    for (std::int64_t first = 0; first < size; first += step) {
      const std::int64_t taken = std::min(step, size - first);
      const at::Tensor some = states.narrow(1, first, taken).reshape({-1, width});
      note(logits(some).view({lines, taken, -1}), {part.nodes.begin() + first, part.nodes.begin() + first + taken});
    }
  }
  return result;
}

}  // namespace mmtune::backbones
