// Attention over layouts, packed or padded, as one autograd node: no padding is computed for packed sequences, and only queries, keys and
// values are kept for the gradient. A piece of work is a few heads of one sequence, small enough that its scores stay in a core's
// cache; the scores are computed again in the backward pass, which costs less than fetching them from memory.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/ops/_softmax.h>
#include <ATen/ops/_softmax_backward_data.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "nn/layers.h"

namespace mmtune::nn {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Some heads of one sequence.
struct Piece {
  std::int64_t sequence, first_head, heads;
};

/// The scores of a piece take about this much, unless one head takes more.
constexpr std::int64_t piece_bytes = 512 << 10;

/// Where the sequences lie in the rows of queries and of keys, and what is added to their scores. Undefined tensors add nothing.
struct Plan {
  std::int64_t heads;
  std::vector<std::int64_t> query_offsets, key_offsets;
  at::Tensor mask;        ///< [B, Tk] of the keys
  at::Tensor future;      ///< [Tq, Tk] of the longest sequence: what a causal query does not see
  at::Tensor group_bias;  ///< [G, Tq, Tk]

  std::int64_t sequences() const { return static_cast<std::int64_t>(query_offsets.size()) - 1; }
  std::int64_t queries(std::int64_t b) const { return length(query_offsets, b); }
  std::int64_t keys(std::int64_t b) const { return length(key_offsets, b); }

  std::vector<Piece> pieces() const {
    std::vector<Piece> all;
    for (std::int64_t b = 0; b < sequences(); ++b) {
      const std::int64_t head_bytes = queries(b) * keys(b) * static_cast<std::int64_t>(sizeof(float));
      const std::int64_t count = std::clamp(piece_bytes / std::max<std::int64_t>(head_bytes, 1), std::int64_t{1}, heads);
      for (std::int64_t h = 0; h < heads; h += count) all.push_back({b, h, std::min(count, heads - h)});
    }
    return all;
  }

  /// [heads, T, d] of the piece, a view of rows [N, H*d].
  at::Tensor query_view(const at::Tensor& rows, const Piece& piece) const { return view(rows, query_offsets, piece); }
  at::Tensor key_view(const at::Tensor& rows, const Piece& piece) const { return view(rows, key_offsets, piece); }

 private:
  static std::int64_t length(const std::vector<std::int64_t>& offsets, std::int64_t b) {
    return offsets[static_cast<std::size_t>(b) + 1] - offsets[static_cast<std::size_t>(b)];
  }
  at::Tensor view(const at::Tensor& rows, const std::vector<std::int64_t>& offsets, const Piece& piece) const {
    const std::int64_t width = rows.size(1), head = width / heads, begin = offsets[static_cast<std::size_t>(piece.sequence)];
    return rows.as_strided({piece.heads, length(offsets, piece.sequence), head}, {head, width, 1},
                           rows.storage_offset() + begin * width + piece.first_head * head);
  }
};

/// out = scale · left · right, for batches of matrices; `out` may be a view.
void multiply(at::Tensor out, const at::Tensor& left, const at::Tensor& right, double scale = 1.0) {
  at::baddbmm_out(out, out, left, right, 0.0, scale);
}

/// softmax(scale · q kᵀ + what the plan adds + bias) of a piece, in `scores` [heads, Tq, Tk].
void probabilities(const Plan& plan, const Piece& piece, const at::Tensor& q, const at::Tensor& k, const at::Tensor& bias, double scale,
                   at::Tensor scores) {
  const std::int64_t queries = q.size(1), keys = k.size(1);
  multiply(scores, q, k.transpose(1, 2), scale);
  if (bias.defined()) scores.add_(bias.narrow(0, piece.first_head, piece.heads));
  if (plan.group_bias.defined()) scores.add_(plan.group_bias[piece.sequence % plan.group_bias.size(0)]);
  if (plan.mask.defined()) scores.add_(plan.mask[piece.sequence]);
  // Of one query at the end nothing lies ahead.
  if (plan.future.defined() && queries > 1) scores.add_(plan.future.narrow(0, 0, queries).narrow(1, 0, keys));
  at::_softmax_out(scores, scores, -1, false);
}

/// Calls work(piece) for all pieces from several threads. Threads other than the caller's record gradients by default: not here.
template <class Work>
void for_pieces(const Plan& plan, const Work& work) {
  const std::vector<Piece> pieces = plan.pieces();
  at::parallel_for(0, static_cast<std::int64_t>(pieces.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    const at::NoGradGuard no_grad;
    for (std::int64_t i = begin; i < end; ++i) work(pieces[static_cast<std::size_t>(i)]);
  });
}

/// q [Nq, H*d], k, v [Nk, H*d], and a bias [H, Tq, Tk] or none → [Nq, H*d].
class Attention : public torch::autograd::Function<Attention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            at::TensorList biases, const Plan& plan) {
    const at::Tensor q = query.detach().contiguous(), k = key.detach().contiguous(), v = value.detach().contiguous();
    const at::Tensor bias = biases.empty() ? at::Tensor() : biases.front().detach();
    const double scale = scale_of(plan, q);
    const at::Tensor out = at::empty_like(q);
    for_pieces(plan, [&](const Piece& piece) {
      const at::Tensor scores = at::empty({piece.heads, plan.queries(piece.sequence), plan.keys(piece.sequence)}, q.options());
      probabilities(plan, piece, plan.query_view(q, piece), plan.key_view(k, piece), bias, scale, scores);
      multiply(plan.query_view(out, piece), scores, plan.key_view(v, piece));
    });
    context->save_for_backward({q, k, v, bias, plan.mask, plan.future, plan.group_bias});
    context->saved_data["heads"] = plan.heads;
    context->saved_data["query_offsets"] = plan.query_offsets;
    context->saved_data["key_offsets"] = plan.key_offsets;
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &bias = saved[3];
    const Plan plan{.heads = context->saved_data["heads"].toInt(),
                    .query_offsets = context->saved_data["query_offsets"].toIntVector(),
                    .key_offsets = context->saved_data["key_offsets"].toIntVector(),
                    .mask = saved[4],
                    .future = saved[5],
                    .group_bias = saved[6]};
    const double scale = scale_of(plan, q);
    const at::Tensor dout = gradients[0].contiguous();
    const auto empty_if = [&](std::size_t input, const at::Tensor& like) {
      return context->needs_input_grad(input) ? at::empty_like(like) : at::Tensor();
    };
    const at::Tensor dq = empty_if(0, q), dk = empty_if(1, k), dv = empty_if(2, v);
    // Every sequence's share is kept and summed in order: threads that added to one tensor would do so in an order of their own.
    const bool need_bias = bias.defined() && context->needs_input_grad(3);
    const at::Tensor shares =
        need_bias ? at::empty({plan.sequences(), bias.size(0), bias.size(1), bias.size(2)}, q.options()) : at::Tensor();
    for_pieces(plan, [&](const Piece& piece) {
      const at::Tensor qs = plan.query_view(q, piece), ks = plan.key_view(k, piece), d = plan.query_view(dout, piece);
      const at::Tensor p = at::empty({piece.heads, qs.size(1), ks.size(1)}, q.options());
      probabilities(plan, piece, qs, ks, bias, scale, p);
      if (dv.defined()) multiply(plan.key_view(dv, piece), p.transpose(1, 2), d);
      if (!dq.defined() && !dk.defined() && !need_bias) return;
      at::Tensor ds = at::empty_like(p);
      multiply(ds, d, plan.key_view(v, piece).transpose(1, 2));
      at::_softmax_backward_data_out(ds, ds, p, -1, p.scalar_type());
      if (dq.defined()) multiply(plan.query_view(dq, piece), ds, ks, scale);
      if (dk.defined()) multiply(plan.key_view(dk, piece), ds.transpose(1, 2), qs, scale);
      if (need_bias) shares[piece.sequence].narrow(0, piece.first_head, piece.heads).copy_(ds);
    });
    if (!bias.defined()) return {dq, dk, dv, {}};
    return {dq, dk, dv, need_bias ? shares.sum(0) : at::Tensor(), {}};
  }

 private:
  static double scale_of(const Plan& plan, const at::Tensor& q) {
    return 1.0 / std::sqrt(static_cast<double>(q.size(1)) / static_cast<double>(plan.heads));
  }
};

/// 0 for visible keys and -inf for the others, [B, Tk]. A sequence without any visible key attends evenly, as transformers' additive mask
/// makes it do, instead of giving NaN.
at::Tensor additive_mask(const at::Tensor& key_mask, const at::TensorOptions& options) {
  if (!key_mask.defined()) return {};
  const at::Tensor visible = key_mask.logical_or(key_mask.any(1, true).logical_not());
  return at::zeros(visible.sizes(), options).masked_fill_(visible.logical_not(), -INFINITY);
}

/// What lies ahead of a causal query: 0 for the keys that it sees and a large negative number for the others. It is finite, because a query
/// whose visible keys are all masked (a text padded on the left) must not give NaN, which would spread through the masked rows' values.
at::Tensor future_mask(const Layout& queries, const Layout& keys, const at::TensorOptions& options) {
  constexpr double hidden = -1e30;
  const std::int64_t ahead = keys.length(0) - queries.length(0);
  std::int64_t most_queries = 0, most_keys = 0;
  for (std::int64_t b = 0; b < queries.batch(); ++b) {
    most_queries = std::max(most_queries, queries.length(b));
    most_keys = std::max(most_keys, keys.length(b));
    // One triangle serves all sequences: they differ in length, not in how many keys stand before the first query.
    MMTUNE_ASSERT(queries.length(b) == 1 || keys.length(b) - queries.length(b) == ahead);
  }
  if (most_queries == 1) return {};
  return at::full({most_queries, most_keys}, hidden, options).triu_(ahead + 1);
}

/// Puts the prefix rows [P, H, d] or [B, P, H, d] in front of every sequence of `rows` [N, H*d].
at::Tensor with_prefix(const at::Tensor& rows, const at::Tensor& prefix, const Layout& layout, std::int64_t heads) {
  Tokens tokens{rows, layout};
  MMTUNE_ASSERT(prefix.size(-2) == heads);
  tokens.insert_prompts(prefix.flatten(-2, -1), 0);
  return tokens.rows;
}

}  // namespace

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, std::int64_t heads, const Layout& query_layout,
                     const Layout& key_layout, const AttentionOptions& options) {
  MMTUNE_ASSERT(query_layout.batch() == key_layout.batch());
  if (options.prefix != nullptr) {
    const KeyValueRows& prefix = *options.prefix;
    const std::int64_t count = prefix.keys.size(-3);
    const auto widened = [count](const at::Tensor& bias) { return bias.defined() ? at::constant_pad_nd(bias, {count, 0}) : bias; };
    return attention(q, with_prefix(k, prefix.keys, key_layout, heads), with_prefix(v, prefix.values, key_layout, heads), heads,
                     query_layout, key_layout.with_inserted(0, count),
                     {.causal = options.causal, .bias = widened(options.bias), .group_bias = widened(options.group_bias)});
  }
  const at::TensorOptions kind = q.options().requires_grad(false);
  const std::vector<at::Tensor> biases(options.bias.defined() ? 1 : 0, options.bias);
  return Attention::apply(q, k, v, at::TensorList(biases),
                          Plan{.heads = heads,
                               .query_offsets = query_layout.offsets(),
                               .key_offsets = key_layout.offsets(),
                               .mask = additive_mask(key_layout.key_mask(), kind),
                               .future = options.causal ? future_mask(query_layout, key_layout, kind) : at::Tensor(),
                               .group_bias = options.group_bias});
}

}  // namespace mmtune::nn
