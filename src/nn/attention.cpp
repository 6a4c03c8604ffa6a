// Attention over layouts, packed or padded, as one autograd node: no padding is computed for packed sequences, and only queries, keys and
// values are kept for the gradient. A piece of work is one head of one sequence (attention_kernel.h), whose scores stay in a core's cache;
// they are computed again in the backward pass, which costs less than fetching them from memory.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "nn/attention_kernel.h"
#include "nn/layers.h"

namespace mmtune::nn {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

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

 private:
  static std::int64_t length(const std::vector<std::int64_t>& offsets, std::int64_t b) {
    return offsets[static_cast<std::size_t>(b) + 1] - offsets[static_cast<std::size_t>(b)];
  }
};

/// The rows and what is added to their scores, as the kernel sees them: one head of one sequence after the other.
class Heads {
 public:
  /// All contiguous float32 on the CPU; `bias` may be undefined.
  Heads(const Plan& plan, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& bias)
      : plan_(plan), q_(q), k_(k), v_(v), bias_(bias), width_(q.size(1) / plan.heads) {
    MMTUNE_ASSERT(q.scalar_type() == at::kFloat && q.device().is_cpu());
    if (plan.group_bias.defined()) group_bias_ = plan.group_bias.contiguous();
    if (bias.defined()) bias_ = bias.contiguous();
  }

  std::int64_t count() const { return plan_.sequences() * plan_.heads; }
  /// Where the rows of head `at` begin in a matrix of queries, and in one of keys.
  std::int64_t query_begin(std::int64_t at) const { return begin(plan_.query_offsets, at); }
  std::int64_t key_begin(std::int64_t at) const { return begin(plan_.key_offsets, at); }
  /// Where its scores begin among [B, H, Tq, Tk], sequences being of one length.
  std::int64_t score_begin(std::int64_t at) const { return at * plan_.queries(0) * plan_.keys(0); }

  AttentionHead operator[](std::int64_t at) const {
    const std::int64_t sequence = at / plan_.heads, head = at % plan_.heads;
    const std::int64_t queries = plan_.queries(sequence), keys = plan_.keys(sequence);
    AttentionHead one{.queries = q_.const_data_ptr<float>() + query_begin(at),
                      .keys = k_.const_data_ptr<float>() + key_begin(at),
                      .values = v_.const_data_ptr<float>() + key_begin(at),
                      .query_count = queries,
                      .key_count = keys,
                      .width = width_,
                      .query_stride = q_.size(1),
                      .key_stride = k_.size(1),
                      .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(width_)))};
    const auto add = [&one](const at::Tensor& numbers, std::int64_t first, std::int64_t stride) {
      one.added[one.added_count++] = {numbers.const_data_ptr<float>() + first, stride};
    };
    if (bias_.defined()) add(bias_, head * queries * keys, keys);
    if (group_bias_.defined()) add(group_bias_, sequence % group_bias_.size(0) * queries * keys, keys);
    if (plan_.mask.defined()) add(plan_.mask, sequence * plan_.mask.size(1), 0);
    // Of one query at the end nothing lies ahead.
    if (plan_.future.defined() && queries > 1) add(plan_.future, 0, plan_.future.size(1));
    return one;
  }

  /// Calls work(kernel, head, at, scratch) for every head of every sequence, from several threads.
  template <class Work>
  void each(const Work& work) const {
    const AttentionKernel& kernel = attention_kernels().front();
    at::parallel_for(0, count(), 1, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> scratch;
      for (std::int64_t at = begin; at < end; ++at) {
        const AttentionHead head = (*this)[at];
        const auto needed = static_cast<std::size_t>(kernel.scratch(head));
        if (scratch.size() < needed) scratch.resize(needed);
        work(kernel, head, at, scratch.data());
      }
    });
  }

 private:
  std::int64_t begin(const std::vector<std::int64_t>& offsets, std::int64_t at) const {
    return offsets[static_cast<std::size_t>(at / plan_.heads)] * width_ * plan_.heads + at % plan_.heads * width_;
  }

  const Plan& plan_;
  const at::Tensor &q_, &k_, &v_;
  at::Tensor bias_, group_bias_;
  std::int64_t width_;
};

/// q [Nq, H*d], k, v [Nk, H*d], and a bias [H, Tq, Tk] or none → [Nq, H*d].
class Attention : public torch::autograd::Function<Attention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            at::TensorList biases, const Plan& plan) {
    const at::Tensor q = query.detach().contiguous(), k = key.detach().contiguous(), v = value.detach().contiguous();
    const at::Tensor bias = biases.empty() ? at::Tensor() : biases.front().detach();
    at::Tensor out = at::empty_like(q);
    auto* const to = out.data_ptr<float>();
    const Heads heads(plan, q, k, v, bias);
    heads.each([&](const AttentionKernel& kernel, const AttentionHead& head, std::int64_t at, float* scratch) {
      kernel.forward(head, to + heads.query_begin(at), scratch);
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
    const at::Tensor dout = gradients[0].contiguous();
    const auto empty_if = [&](std::size_t input, const at::Tensor& like) {
      return context->needs_input_grad(input) ? at::empty_like(like) : at::Tensor();
    };
    const at::Tensor dq = empty_if(0, q), dk = empty_if(1, k), dv = empty_if(2, v);
    // Every sequence's share is kept and summed in order: threads that added to one tensor would do so in an order of their own.
    const bool need_bias = bias.defined() && context->needs_input_grad(3);
    const at::Tensor shares =
        need_bias ? at::empty({plan.sequences(), bias.size(0), bias.size(1), bias.size(2)}, q.options()) : at::Tensor();
    const auto place = [](const at::Tensor& x, std::int64_t begin) { return x.defined() ? x.data_ptr<float>() + begin : nullptr; };
    const Heads heads(plan, q, k, v, bias);
    heads.each([&](const AttentionKernel& kernel, const AttentionHead& head, std::int64_t at, float* scratch) {
      const std::int64_t query = heads.query_begin(at), key = heads.key_begin(at);
      kernel.backward(head,
                      {.out = dout.const_data_ptr<float>() + query,
                       .queries = place(dq, query),
                       .keys = place(dk, key),
                       .values = place(dv, key),
                       .bias = need_bias ? place(shares, heads.score_begin(at)) : nullptr},
                      scratch);
    });
    if (!bias.defined()) return {dq, dk, dv, {}};
    return {dq, dk, dv, need_bias ? shares.sum(0) : at::Tensor(), {}};
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

/// What is added to the scores of sequence `b`: [H or 1, Tq, Tk], or undefined.
at::Tensor added_scores(const Plan& plan, const at::Tensor& bias, std::int64_t b) {
  at::Tensor sum;
  const auto add = [&sum](const at::Tensor& part) { sum = sum.defined() ? sum + part : part; };
  if (bias.defined()) add(bias);
  if (plan.group_bias.defined()) add(plan.group_bias[b % plan.group_bias.size(0)].unsqueeze(0));
  if (plan.mask.defined()) add(plan.mask[b].view({1, 1, -1}).expand({1, plan.queries(b), plan.keys(b)}));
  if (plan.future.defined() && plan.queries(b) > 1) add(plan.future.narrow(0, 0, plan.queries(b)).narrow(1, 0, plan.keys(b)).unsqueeze(0));
  return sum;
}

/// The same as Attention by LibTorch's own: one call for sequences of one length, otherwise one a sequence.
at::Tensor portable_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& bias, const Plan& plan) {
  const std::int64_t sequences = plan.sequences(), heads = plan.heads, width = q.size(1);
  const auto attend = [](const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const at::Tensor& added) {
    return at::scaled_dot_product_attention(query, key, value, added.defined() ? std::optional<at::Tensor>(added) : std::nullopt);
  };
  bool even = true;
  for (std::int64_t b = 0; b < sequences; ++b) even = even && plan.queries(b) == plan.queries(0) && plan.keys(b) == plan.keys(0);
  if (even) {
    const auto split = [&](const at::Tensor& rows) { return rows.view({sequences, -1, heads, width / heads}).transpose(1, 2); };
    at::Tensor added;
    if (plan.mask.defined() || plan.group_bias.defined()) {
      std::vector<at::Tensor> parts;
      for (std::int64_t b = 0; b < sequences; ++b) parts.push_back(added_scores(plan, bias, b));
      added = at::stack(parts);
    } else {
      added = added_scores(plan, bias, 0);
    }
    return attend(split(q), split(k), split(v), added).transpose(1, 2).reshape({-1, width});
  }
  std::vector<at::Tensor> outputs;
  for (std::int64_t b = 0; b < sequences; ++b) {
    const auto part = [&](const at::Tensor& rows, const std::vector<std::int64_t>& offsets, std::int64_t length) {
      return rows.narrow(0, offsets[static_cast<std::size_t>(b)], length).view({1, length, heads, width / heads}).transpose(1, 2);
    };
    const at::Tensor added = added_scores(plan, bias, b);
    outputs.push_back(attend(part(q, plan.query_offsets, plan.queries(b)), part(k, plan.key_offsets, plan.keys(b)),
                             part(v, plan.key_offsets, plan.keys(b)), added.defined() ? added.unsqueeze(0) : added)
                          .transpose(1, 2)
                          .reshape({-1, width}));
  }
  return at::cat(outputs);
}

}  // namespace

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, std::int64_t heads, const Layout& query_layout,
                     const Layout& key_layout, const AttentionOptions& options) {
  MMTUNE_ASSERT(query_layout.batch() == key_layout.batch());
  if (options.prefix != nullptr) {
    const KeyValueRows& prefix = *options.prefix;
    const std::int64_t count = prefix.keys.size(-3);
    const auto widened = [count](const at::Tensor& bias) { return bias.defined() ? at::constant_pad_nd(bias, {count, 0}) : bias; };
    return attention(
        q, with_prefix(k, prefix.keys, key_layout, heads), with_prefix(v, prefix.values, key_layout, heads), heads, query_layout,
        key_layout.with_inserted(0, count),
        {.causal = options.causal, .bias = widened(options.bias), .group_bias = widened(options.group_bias), .portable = options.portable});
  }
  const at::TensorOptions kind = q.options().requires_grad(false);
  Plan plan{.heads = heads,
            .query_offsets = query_layout.offsets(),
            .key_offsets = key_layout.offsets(),
            .mask = additive_mask(key_layout.key_mask(), kind),
            .future = options.causal ? future_mask(query_layout, key_layout, kind) : at::Tensor(),
            .group_bias = options.group_bias};
  if (options.portable || !q.device().is_cpu()) return portable_attention(q, k, v, options.bias, plan);
  const std::vector<at::Tensor> biases(options.bias.defined() ? 1 : 0, options.bias);
  return Attention::apply(q, k, v, at::TensorList(biases), plan);
}

}  // namespace mmtune::nn
