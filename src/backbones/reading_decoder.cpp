#include "backbones/reading_decoder.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <span>

#include "backbones/token_tree.h"
#include "core/error.h"

namespace mmtune::backbones {

namespace {

/// Added to the score of a key that a node does not see. Finite, as in nn/attention.cpp.
constexpr float hidden = -1e30F;
/// Numbers in the logits that are made at once: 256 MiB.
constexpr std::int64_t most_logits = 1 << 26;
/// Nodes of a tree that are read together: their attention to each other grows with the square.
constexpr std::int64_t nodes_at_once = 512;

/// [1, M, P + M]: what a node does not see of the other nodes.
at::Tensor hidden_from(const TokenTreePart& tree, std::int64_t past, at::Device device) {
  const auto count = static_cast<std::int64_t>(tree.nodes.size());
  at::Tensor scores = at::full({1, count, past + count}, hidden, at::kFloat);
  scores.narrow(2, 0, past).zero_();
  auto rows = scores.accessor<float, 3>();
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t node = i; node >= 0; node = tree.parents[static_cast<std::size_t>(node)]) rows[0][i][past + node] = 0.0F;
  return scores.to(device);
}

std::vector<std::int64_t> numbers_of(const at::Tensor& x) {
  const at::Tensor numbers = x.to(at::kCPU).to(at::kLong).contiguous();
  const auto* const begin = numbers.const_data_ptr<std::int64_t>();
  return {begin, begin + numbers.numel()};
}

}  // namespace

at::Tensor ReadingDecoder::read(const at::Tensor& tokens) {
  const at::NoGradGuard no_grad;
  MMTUNE_ASSERT(tokens.dim() == 2 && tokens.size(0) == batch_ && tokens.size(1) > 0);
  std::vector<std::int64_t> depths(static_cast<std::size_t>(tokens.size(1)));
  std::iota(depths.begin(), depths.end(), 0);
  last_ = states(tokens, depths).view({batch_, tokens.size(1), -1}).select(1, tokens.size(1) - 1).contiguous();
  return logits(last_);
}

void ReadingDecoder::select(const at::Tensor& rows) {
  const at::NoGradGuard no_grad;
  cache_.select(rows);
  select_more(rows);
  if (last_.defined()) last_ = last_.index_select(0, nn::beside(rows, last_));
  batch_ = rows.size(0);
}

/// Only nodes that something follows are read; what follows them is compared by their logits.
at::Tensor ReadingDecoder::tree(const at::Tensor& tokens, const at::Tensor& parents, bool normalised) {
  const at::NoGradGuard no_grad;
  MMTUNE_ASSERT(tokens.dim() == 1 && tokens.sizes() == parents.sizes() && last_.defined());
  const std::vector<std::int64_t> ids = numbers_of(tokens), behind = numbers_of(parents);
  std::vector<std::vector<std::int64_t>> children(ids.size() + 1);
  for (std::size_t node = 0; node < ids.size(); ++node)
    children[static_cast<std::size_t>(behind[node] + 1)].push_back(static_cast<std::int64_t>(node));
  at::Tensor result = at::empty({batch_, tokens.size(0)}, last_.options());
  const auto index = [&](const std::vector<std::int64_t>& list) { return nn::beside(at::tensor(list, at::kLong), result); };
  // Of the children of some parents, whose states [B, parents, E] are there.
  const auto note = [&](const at::Tensor& sources, std::span<const std::int64_t> of) {
    const at::Tensor scores = logits(sources.flatten(0, 1)).view({batch_, sources.size(1), -1});
    std::vector<std::int64_t> nodes, places, rows;
    for (std::size_t i = 0; i < of.size(); ++i)
      for (const std::int64_t child : children[static_cast<std::size_t>(of[i] + 1)]) {
        nodes.push_back(child);
        rows.push_back(static_cast<std::int64_t>(i));
        places.push_back(rows.back() * scores.size(2) + ids[static_cast<std::size_t>(child)]);
      }
    at::Tensor found = scores.flatten(1).index_select(1, index(places));
    if (normalised) found = found - scores.logsumexp({2}).index_select(1, index(rows));
    result.index_copy_(1, index(nodes), found);
  };
  constexpr std::int64_t behind_what_was_read = -1;
  note(last_.unsqueeze(1), {&behind_what_was_read, 1});
  const std::int64_t step = std::max<std::int64_t>(1, most_logits / (batch_ * vocabulary()));
  for (const TokenTreePart& part : inner_parts(behind, nodes_at_once)) {
    const auto size = static_cast<std::int64_t>(part.nodes.size());
    std::vector<std::int64_t> words;
    for (const std::int64_t node : part.nodes) words.push_back(ids[static_cast<std::size_t>(node)]);
    cache_.tree = hidden_from(part, cache_.visible.size(1), last_.device());
    cache_.keep = false;
    const at::Tensor read = at::tensor(words, at::kLong).unsqueeze(0).expand({batch_, size}).contiguous();
    const at::Tensor made = states(read, part.depths).view({batch_, size, -1});
    cache_.tree.reset();
    cache_.keep = true;
    for (std::int64_t first = 0; first < size; first += step) {
      const std::int64_t some = std::min(step, size - first);
      note(made.narrow(1, first, some), std::span(part.nodes).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(some)));
    }
  }
  return result;
}

}  // namespace mmtune::backbones
