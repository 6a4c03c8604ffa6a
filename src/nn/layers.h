#pragma once
// Layers with seams. All act on token matrices [N, D]; frozen tensors keep nothing for a weight gradient.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "nn/sites.h"
#include "nn/weights.h"

namespace mmtune::nn {

enum class Activation { gelu, gelu_tanh, quick_gelu, relu, silu, tanh };
/// HuggingFace's hidden_act names; throws Error on an unknown one.
Activation activation_named(const std::string& name, const std::string& where);
at::Tensor activate(const at::Tensor& x, Activation activation);

/// A linear map with a weight site.
class Linear {
 public:
  Linear(const Weights& weights, std::int64_t in, std::int64_t out, std::int64_t layer, bool bias = true);
  at::Tensor operator()(const at::Tensor& x, const Context& context) const;
  WeightSite& site() { return site_; }
  const WeightSite& site() const { return site_; }
  void list(SiteTable& table);

 private:
  WeightSite site_;
};

/// Several maps of the same input, with one accumulated input gradient: [N, in] → one [N, out_i] each.
std::vector<at::Tensor> linear_group(const at::Tensor& x, std::span<const Linear* const> maps, const Context& context);

/// x Wᵀ + b over the last axis with the derivatives of at::linear, for a weight that may lie in half precision: it is float32 only while it
/// is multiplied with, in either direction.
at::Tensor frozen_matrix(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {},
                         MatmulPrecision precision = MatmulPrecision::highest);
/// Rows of a table, which may lie in half precision too, as float32.
at::Tensor lookup(const at::Tensor& table, const at::Tensor& indices);

/// LayerNorm over the last axis.
class LayerNorm {
 public:
  LayerNorm(const Weights& weights, std::int64_t width, double epsilon);
  at::Tensor operator()(const at::Tensor& x) const;
  void list(SiteTable& table);

 private:
  std::string name_;
  std::int64_t width_;
  double epsilon_;
  at::Tensor weight_, bias_;
};

/// What may be asked of attention() beyond queries, keys and values.
struct AttentionOptions {
  /// Rows in front of every sequence's keys and values.
  const KeyValueRows* prefix = nullptr;
  /// Aligned at the end: query i of Tq sees key j of Tk where j - i <= Tk - Tq, so that prefix rows are visible to every query.
  bool causal = false;
  /// [H, Tq, Tk], added to the scaled scores of every sequence (all of one length); 0 for prefix rows. Its gradient is computed where it
  /// is wanted.
  at::Tensor bias;
  /// [G, Tq, Tk], added too, to all heads: sequence b takes entry b mod G. It has no gradient.
  at::Tensor group_bias;
  /// Computes with operators that every device has, as is done on all but the CPU.
  bool portable = false;
};

/// Scaled dot-product attention over sequences of a layout. q [Nq, H*d] with `query_layout`, k and v [Nk, H*d] with `key_layout` (the same
/// batch). Result [Nq, H*d]. Softmax(q kᵀ / sqrt(d) + biases) over visible keys.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, std::int64_t heads, const Layout& query_layout,
                     const Layout& key_layout, const AttentionOptions& options = {});

}  // namespace mmtune::nn
