#pragma once
// The query, key and value maps of a self-attention with their sites, up to (not including) the output projection.

#include "nn/layers.h"

namespace mmtune::nn {

/// What a checkpoint calls the three maps, below the attention's scope.
struct AttentionNames {
  std::string_view query = "query", key = "key", value = "value";
};
/// As CLIP, Wav2Vec2 and most newer models call them.
inline constexpr AttentionNames proj_names{"q_proj", "k_proj", "v_proj"};

class SelfAttention {
 public:
  /// `weights` is the scope that holds the three maps.
  SelfAttention(const Weights& weights, std::int64_t width, std::int64_t heads, std::int64_t layer, bool bias = true,
                const AttentionNames& names = {});

  /// `queries` [Nq, D]: the rows whose output is wanted (all of `rows`, or fewer of the same sequences); `rows` [N, D]: the rows attended
  /// to. Result [Nq, D], heads side by side. `options.prefix` is the site's own business.
  at::Tensor operator()(const at::Tensor& queries, const at::Tensor& rows, const Layout& query_layout, const Layout& key_layout,
                        const Context& context, const AttentionOptions& options = {}) const;

  /// The two halves of operator(), for models that arrange the rows anew in between (windows): queries, keys and values of rows, and the
  /// attention over them.
  std::vector<at::Tensor> project(const at::Tensor& queries, const at::Tensor& rows, const Context& context) const;
  at::Tensor attend(const std::vector<at::Tensor>& queries_keys_values, const Layout& query_layout, const Layout& key_layout,
                    const Context& context, AttentionOptions options = {}) const;
  void list(SiteTable& table);

 private:
  std::int64_t heads_;
  Linear query_, key_, value_;
  KeyValueSite keys_values_;
};

}  // namespace mmtune::nn
