// Attention over layouts. Equal lengths go through LibTorch's fused kernel in one call; packed sequences of different lengths go
// through it one sequence at a time inside one autograd node, so that no padding is computed and the graph stays small.

#include <ATen/ATen.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "nn/layers.h"

namespace mmtune::nn {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Rows [begin, begin + length) of [N, H*d] as [1, H, T, d].
at::Tensor sequence_view(const at::Tensor& rows, std::int64_t begin, std::int64_t length, std::int64_t heads) {
  return rows.narrow(0, begin, length).view({1, length, heads, rows.size(1) / heads}).transpose(1, 2);
}

/// q [Nq, H*d], k, v [Nk, H*d] of packed sequences.
class PackedAttention : public torch::autograd::Function<PackedAttention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, std::int64_t heads,
                            const std::vector<std::int64_t>& query_offsets, const std::vector<std::int64_t>& key_offsets) {
    at::Tensor out = at::empty_like(q);
    variable_list saved{q, k, v, out};
    for (std::size_t b = 0; b + 1 < query_offsets.size(); ++b) {
      const std::int64_t q0 = query_offsets[b], qn = query_offsets[b + 1] - q0, k0 = key_offsets[b], kn = key_offsets[b + 1] - k0;
      auto [o, lse] = at::_scaled_dot_product_flash_attention_for_cpu(sequence_view(q, q0, qn, heads), sequence_view(k, k0, kn, heads),
                                                                      sequence_view(v, k0, kn, heads));
      sequence_view(out, q0, qn, heads).copy_(o);
      saved.push_back(lse);
    }
    context->save_for_backward(saved);
    context->saved_data["heads"] = heads;
    context->saved_data["query_offsets"] = query_offsets;
    context->saved_data["key_offsets"] = key_offsets;
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const std::int64_t heads = context->saved_data["heads"].toInt();
    const auto query_offsets = context->saved_data["query_offsets"].toIntVector();
    const auto key_offsets = context->saved_data["key_offsets"].toIntVector();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3];
    const at::Tensor dout = gradients[0].contiguous();
    at::Tensor dq = at::empty_like(q), dk = at::empty_like(k), dv = at::empty_like(v);
    for (std::size_t b = 0; b + 1 < query_offsets.size(); ++b) {
      const std::int64_t q0 = query_offsets[b], qn = query_offsets[b + 1] - q0, k0 = key_offsets[b], kn = key_offsets[b + 1] - k0;
      auto [gq, gk, gv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          sequence_view(dout, q0, qn, heads), sequence_view(q, q0, qn, heads), sequence_view(k, k0, kn, heads),
          sequence_view(v, k0, kn, heads), sequence_view(out, q0, qn, heads), saved[4 + b], 0.0, false);
      sequence_view(dq, q0, qn, heads).copy_(gq);
      sequence_view(dk, k0, kn, heads).copy_(gk);
      sequence_view(dv, k0, kn, heads).copy_(gv);
    }
    return {dq, dk, dv, {}, {}, {}};
  }
};

/// Puts the prefix rows [P, H, d] or [B, P, H, d] in front of every sequence of `rows` [N, H*d].
at::Tensor with_prefix(const at::Tensor& rows, const at::Tensor& prefix, const Layout& layout, std::int64_t heads) {
  Tokens tokens{rows, layout};
  MMTUNE_ASSERT(prefix.size(-2) == heads);
  tokens.insert_prompts(prefix.flatten(-2, -1), 0);
  return tokens.rows;
}

}  // namespace

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, std::int64_t heads, const Layout& query_layout,
                     const Layout& key_layout, const KeyValueRows* prefix) {
  MMTUNE_ASSERT(query_layout.batch() == key_layout.batch());
  if (prefix != nullptr) {
    const at::Tensor keys = with_prefix(k, prefix->keys, key_layout, heads);
    const at::Tensor values = with_prefix(v, prefix->values, key_layout, heads);
    return attention(q, keys, values, heads, query_layout, key_layout.with_inserted(0, prefix->keys.size(-3)));
  }
  if (!query_layout.is_uniform() || !key_layout.is_uniform())
    return PackedAttention::apply(q, k, v, heads, query_layout.offsets(), key_layout.offsets());
  const std::int64_t batch = query_layout.batch();
  const auto split = [&](const at::Tensor& rows) { return rows.view({batch, -1, heads, rows.size(1) / heads}).transpose(1, 2); };
  std::optional<at::Tensor> mask;
  if (key_layout.key_mask().defined()) {
    // A sequence without any visible key attends evenly, as transformers' additive mask makes it do, instead of giving NaN.
    const at::Tensor visible = key_layout.key_mask().logical_or(key_layout.key_mask().any(1, true).logical_not());
    mask = at::zeros(visible.sizes(), q.options().requires_grad(false))
               .masked_fill_(visible.logical_not(), -INFINITY)
               .unsqueeze(1)
               .unsqueeze(1);
  }
  const at::Tensor out = at::scaled_dot_product_attention(split(q), split(k), split(v), mask);
  return out.transpose(1, 2).reshape({q.size(0), q.size(1)});
}

}  // namespace mmtune::nn
