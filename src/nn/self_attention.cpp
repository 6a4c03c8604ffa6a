#include "nn/self_attention.h"

#include <ATen/ATen.h>

namespace mmtune::nn {

SelfAttention::SelfAttention(const Weights& weights, std::int64_t width, std::int64_t heads, std::int64_t layer, bool bias)
    : heads_(heads),
      query_(weights / "query", width, width, layer, bias),
      key_(weights / "key", width, width, layer, bias),
      value_(weights / "value", width, width, layer, bias),
      keys_values_{.name = weights.path(), .heads = heads, .head_width = width / heads, .layer = layer} {}

at::Tensor SelfAttention::operator()(const at::Tensor& queries, const at::Tensor& rows, const Layout& query_layout,
                                     const Layout& key_layout, const Context& context) const {
  std::vector<at::Tensor> qkv;
  if (queries.is_same(rows)) {
    const Linear* maps[] = {&query_, &key_, &value_};
    qkv = linear_group(rows, maps, context);
  } else {
    const Linear* maps[] = {&key_, &value_};
    qkv = linear_group(rows, maps, context);
    qkv.insert(qkv.begin(), query_(queries, context));
  }
  std::optional<KeyValueRows> prefix;
  if (keys_values_.hook) prefix = keys_values_.hook->rows(context);
  return attention(qkv[0], qkv[1], qkv[2], heads_, query_layout, key_layout, prefix ? &*prefix : nullptr);
}

void SelfAttention::list(SiteTable& table) {
  for (Linear* map : {&query_, &key_, &value_}) map->list(table);
  table.keys_values.push_back(&keys_values_);
}

}  // namespace mmtune::nn
