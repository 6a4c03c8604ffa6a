#pragma once
// The query, key and value maps of a self-attention with their sites, up to (not including) the output projection.

#include "nn/layers.h"

namespace mmtune::nn {

class SelfAttention {
 public:
  /// `weights` is the scope that holds query, key and value.
  SelfAttention(const Weights& weights, std::int64_t width, std::int64_t heads, std::int64_t layer, bool bias = true);

  /// `queries` [Nq, D]: the rows whose output is wanted (all of `rows`, or fewer of the same sequences); `rows` [N, D]: the rows attended
  /// to. Result [Nq, D], heads side by side.
  at::Tensor operator()(const at::Tensor& queries, const at::Tensor& rows, const Layout& query_layout, const Layout& key_layout,
                        const Context& context) const;
  void list(SiteTable& table);

 private:
  std::int64_t heads_;
  Linear query_, key_, value_;
  KeyValueSite keys_values_;
};

}  // namespace mmtune::nn
