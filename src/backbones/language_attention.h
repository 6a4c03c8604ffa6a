#pragma once
// The attention of language models: grouped queries, heads of any width, rotary positions or position biases, and a cache of the keys and
// values of what was read before.

#include <optional>
#include <string_view>
#include <vector>

#include "nn/layers.h"
#include "nn/rotary.h"

namespace mmtune::backbones {

/// Keys and values of one block, [B, P, K·d]; undefined while nothing was read.
struct CachedKeys {
  at::Tensor keys, values;
  std::int64_t length() const { return keys.defined() ? keys.size(1) : 0; }
};

/// What a language model has read: B rows, padded on the left to one length P.
struct ReadingCache {
  std::vector<CachedKeys> blocks;
  at::Tensor visible;                 ///< [B, P] bool
  std::vector<std::int64_t> lengths;  ///< visible rows of each
  bool keep = true;                   ///< false: a pass reads the cache and adds nothing to it (trees)
  /// Of a tree's nodes over the cache and themselves: [1, M, P + M], 0 where a node sees a key; undefined: a pass is causal.
  at::Tensor tree;

  explicit ReadingCache(std::size_t count) : blocks(count) {}
  void select(const at::Tensor& rows);
};

struct LanguageAttentionShape {
  std::int64_t width = 0, heads = 0, key_heads = 0, head_width = 0;
  bool bias = false, output_bias = false;
  double query_scale = 1.0;  ///< of the queries, beside the attention's own 1/sqrt(d)
  bool causal = true;
};

struct LanguageAttentionNames {
  std::string_view query, key, value, output;
};

class LanguageAttention {
 public:
  /// `cross`: keys and values come from rows of another sequence; no prefix joins them.
  LanguageAttention(const nn::Weights& weights, const LanguageAttentionShape& shape, const LanguageAttentionNames& names,
                    std::int64_t layer, bool cross = false);

  /// The rows of a pass whose output is wanted: the last of every sequence, where fewer than all.
  struct Narrow {
    at::Tensor rows;  ///< [M] int64
    nn::Layout layout;
  };
  /// What the attention of one pass has beyond its rows.
  struct Pass {
    nn::Rotation rotation;           ///< of the rows
    const Narrow* narrow = nullptr;  ///< null: all rows are wanted
    at::Tensor bias;                 ///< [H, Tq, Tk], keys of the cache in front
    ReadingCache* cache = nullptr;
    std::size_t block = 0;  ///< of the cache
  };
  /// x [N, D], the normed rows → [N, D], or [M, D] where fewer are wanted, the output map included.
  at::Tensor operator()(const at::Tensor& x, const nn::Layout& layout, const Pass& pass, const nn::Context& context) const;

  /// Keys and values [S, K·d] of rows [S, D] for cross-attention.
  std::vector<at::Tensor> keys_values(const at::Tensor& rows, const nn::Context& context) const;
  at::Tensor cross(const at::Tensor& x, const std::vector<at::Tensor>& keys_values, const nn::Layout& layout,
                   const nn::Layout& source_layout, const nn::Context& context) const;

  void list(nn::SiteTable& table);
  std::int64_t macs(std::int64_t queries, std::int64_t keys) const;

 private:
  /// Keys or values for every query head.
  at::Tensor spread(const at::Tensor& x) const;
  at::Tensor asked(const at::Tensor& query) const { return shape_.query_scale == 1.0 ? query : query * shape_.query_scale; }

  LanguageAttentionShape shape_;
  bool cross_;
  nn::Linear query_, key_, value_, output_;
  nn::KeyValueSite keys_values_;
};

}  // namespace mmtune::backbones
