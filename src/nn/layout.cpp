#include "nn/layout.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace mmtune::nn {

namespace {

/// Flat row numbers of positions [at, at + count) of every sequence, in order.
at::Tensor span_rows(const Layout& layout, std::int64_t at, std::int64_t count) {
  at::Tensor index = at::empty({layout.batch() * count}, at::kLong);
  auto* out = index.data_ptr<std::int64_t>();
  std::int64_t offset = 0;
  for (std::int64_t b = 0; b < layout.batch(); ++b) {
    for (std::int64_t i = 0; i < count; ++i) *out++ = offset + at + i;
    offset += layout.length(b);
  }
  return index;
}

/// Flat row numbers of every position outside [at, at + count), in order.
at::Tensor other_rows(const Layout& layout, std::int64_t at, std::int64_t count) {
  at::Tensor index = at::empty({layout.rows() - layout.batch() * count}, at::kLong);
  auto* out = index.data_ptr<std::int64_t>();
  std::int64_t offset = 0;
  for (std::int64_t b = 0; b < layout.batch(); ++b) {
    for (std::int64_t i = 0; i < layout.length(b); ++i)
      if (i < at || i >= at + count) *out++ = offset + i;
    offset += layout.length(b);
  }
  return index;
}

at::Tensor flat_prompts(const at::Tensor& prompts, std::int64_t batch) {
  if (prompts.dim() == 2) return prompts.unsqueeze(0).expand({batch, prompts.size(0), prompts.size(1)}).reshape({-1, prompts.size(1)});
  MMTUNE_ASSERT(prompts.dim() == 3 && prompts.size(0) == batch);
  return prompts.reshape({-1, prompts.size(2)});
}

std::int64_t rows_of(const at::Tensor& prompts) {
  return prompts.size(prompts.dim() - 2);
}

}  // namespace

Layout Layout::uniform(std::int64_t batch, std::int64_t length, at::Tensor key_mask) {
  MMTUNE_ASSERT(!key_mask.defined() || (key_mask.dim() == 2 && key_mask.size(0) == batch && key_mask.size(1) == length));
  Layout layout;
  layout.lengths_.assign(static_cast<std::size_t>(batch), length);
  layout.rows_ = batch * length;
  layout.key_mask_ = std::move(key_mask);
  return layout;
}

Layout Layout::packed(std::vector<std::int64_t> lengths) {
  Layout layout;
  layout.rows_ = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  MMTUNE_ASSERT(std::all_of(lengths.begin(), lengths.end(), [](std::int64_t length) { return length > 0; }));
  layout.uniform_ = std::adjacent_find(lengths.begin(), lengths.end(), std::not_equal_to<>()) == lengths.end();
  layout.lengths_ = std::move(lengths);
  return layout;
}

std::vector<std::int64_t> Layout::offsets() const {
  std::vector<std::int64_t> offsets(lengths_.size() + 1, 0);
  std::partial_sum(lengths_.begin(), lengths_.end(), offsets.begin() + 1);
  return offsets;
}

Layout Layout::on(at::Device device) const {
  Layout layout = *this;
  if (key_mask_.defined()) layout.key_mask_ = key_mask_.to(device);
  return layout;
}

Layout Layout::with_inserted(std::int64_t at, std::int64_t count) const {
  Layout layout = *this;
  for (auto& length : layout.lengths_) {
    MMTUNE_ASSERT(at <= length);
    length += count;
  }
  layout.rows_ += batch() * count;
  if (key_mask_.defined()) {
    const at::Tensor visible = at::ones({batch(), count}, key_mask_.options());
    layout.key_mask_ = at::cat({key_mask_.slice(1, 0, at), visible, key_mask_.slice(1, at)}, 1);
  }
  return layout;
}

Layout Layout::with_removed(std::int64_t at, std::int64_t count) const {
  Layout layout = *this;
  for (auto& length : layout.lengths_) {
    MMTUNE_ASSERT(at + count <= length && count < length);
    length -= count;
  }
  layout.rows_ -= batch() * count;
  if (key_mask_.defined()) layout.key_mask_ = at::cat({key_mask_.slice(1, 0, at), key_mask_.slice(1, at + count)}, 1);
  return layout;
}

void Tokens::insert_prompts(const at::Tensor& prompts, std::int64_t at) {
  MMTUNE_ASSERT(prompt_count == 0);
  const std::int64_t count = rows_of(prompts);
  const Layout wider = layout.with_inserted(at, count);
  if (layout.is_uniform()) {
    const at::Tensor x = rows.view({layout.batch(), layout.length(0), -1});
    const at::Tensor p = flat_prompts(prompts, layout.batch()).view({layout.batch(), count, -1});
    rows = at::cat({x.slice(1, 0, at), p, x.slice(1, at)}, 1).view({wider.rows(), -1});
  } else {
    // Rows of the wider matrix come from [tokens; prompts] by one gather, whose derivative is one scatter.
    const at::Tensor source = at::cat({rows, flat_prompts(prompts, layout.batch())}, 0);
    at::Tensor index = at::empty({wider.rows()}, at::kLong);
    auto* out = index.data_ptr<std::int64_t>();
    std::int64_t token = 0, prompt = rows.size(0);
    for (std::int64_t b = 0; b < layout.batch(); ++b) {
      for (std::int64_t i = 0; i < at; ++i) *out++ = token++;
      for (std::int64_t i = 0; i < count; ++i) *out++ = prompt++;
      for (std::int64_t i = at; i < layout.length(b); ++i) *out++ = token++;
    }
    rows = source.index_select(0, beside(index, rows));
  }
  layout = wider;
  prompt_at = at;
  prompt_count = count;
}

void Tokens::replace_prompts(const at::Tensor& prompts) {
  MMTUNE_ASSERT(prompt_count > 0 && rows_of(prompts) == prompt_count);
  const std::int64_t at = prompt_at;
  remove_prompts();
  insert_prompts(prompts, at);
}

void Tokens::remove_prompts() {
  MMTUNE_ASSERT(prompt_count > 0);
  if (layout.is_uniform()) {
    const at::Tensor x = rows.view({layout.batch(), layout.length(0), -1});
    rows = at::cat({x.slice(1, 0, prompt_at), x.slice(1, prompt_at + prompt_count)}, 1).flatten(0, 1);
  } else {
    rows = rows.index_select(0, beside(other_rows(layout, prompt_at, prompt_count), rows));
  }
  layout = layout.with_removed(prompt_at, prompt_count);
  prompt_count = 0;
  prompts_end = false;
}

at::Tensor Tokens::prompts() const {
  return rows.index_select(0, beside(span_rows(layout, prompt_at, prompt_count), rows)).view({layout.batch(), prompt_count, -1});
}

at::Tensor beside(const at::Tensor& x, const at::Tensor& other) {
  return x.to(other.device());
}

at::Tensor positions_within(const Layout& layout, std::int64_t first, std::int64_t longest) {
  at::Tensor positions = at::empty({layout.rows()}, at::kLong);
  auto* out = positions.data_ptr<std::int64_t>();
  for (const std::int64_t length : layout.lengths()) {
    MMTUNE_ASSERT(length <= longest);
    std::iota(out, out + length, first);
    out += length;
  }
  return positions;
}

at::Tensor first_rows(const at::Tensor& rows, const Layout& layout) {
  if (rows.size(0) == layout.batch()) return rows;
  if (layout.is_uniform()) return rows.view({layout.batch(), layout.length(0), -1}).select(1, 0);
  return rows.index_select(0, beside(span_rows(layout, 0, 1), rows));
}

at::Tensor mean_rows(const at::Tensor& rows, const Layout& layout) {
  if (layout.is_uniform()) {
    const at::Tensor x = rows.view({layout.batch(), layout.length(0), -1});
    if (!layout.key_mask().defined()) return x.mean(1);
    const at::Tensor weight = layout.key_mask().to(rows.scalar_type()).unsqueeze(2);
    return (x * weight).sum(1) / weight.sum(1).clamp_min(1);
  }
  std::vector<at::Tensor> means;
  means.reserve(static_cast<std::size_t>(layout.batch()));
  const auto pieces = rows.split_with_sizes(layout.lengths(), 0);
  for (const at::Tensor& piece : pieces) means.push_back(piece.mean(0));
  return at::stack(means);
}

}  // namespace mmtune::nn
