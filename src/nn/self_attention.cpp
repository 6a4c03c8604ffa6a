#include "nn/self_attention.h"

#include <ATen/ATen.h>

namespace mmtune::nn {

SelfAttention::SelfAttention(const Weights& weights, std::int64_t width, std::int64_t heads, std::int64_t layer, bool bias,
                             const AttentionNames& names)
    : heads_(heads),
      query_(weights / names.query, width, width, layer, bias),
      key_(weights / names.key, width, width, layer, bias),
      value_(weights / names.value, width, width, layer, bias),
      keys_values_{.name = weights.path(), .heads = heads, .head_width = width / heads, .layer = layer} {}

std::vector<at::Tensor> SelfAttention::project(const at::Tensor& queries, const at::Tensor& rows, const Context& context) const {
  if (queries.is_same(rows)) {
    const Linear* maps[] = {&query_, &key_, &value_};
    return linear_group(rows, maps, context);
  }
  const Linear* maps[] = {&key_, &value_};
  std::vector<at::Tensor> qkv = linear_group(rows, maps, context);
  qkv.insert(qkv.begin(), query_(queries, context));
  return qkv;
}

at::Tensor SelfAttention::attend(const std::vector<at::Tensor>& qkv, const Layout& query_layout, const Layout& key_layout,
                                 const Context& context, AttentionOptions options) const {
  std::optional<KeyValueRows> prefix;
  if (keys_values_.hook) prefix = keys_values_.hook->rows(context);
  options.prefix = prefix ? &*prefix : nullptr;
  return attention(qkv[0], qkv[1], qkv[2], heads_, query_layout, key_layout, options);
}

at::Tensor SelfAttention::operator()(const at::Tensor& queries, const at::Tensor& rows, const Layout& query_layout,
                                     const Layout& key_layout, const Context& context, const AttentionOptions& options) const {
  return attend(project(queries, rows, context), query_layout, key_layout, context, options);
}

void SelfAttention::list(SiteTable& table) {
  for (Linear* map : {&query_, &key_, &value_}) map->list(table);
  keys_values_.project = [this](const at::Tensor& rows, const Context& context) {
    const Linear* const maps[] = {&key_, &value_};
    const std::vector<at::Tensor> made = linear_group(rows, maps, context);
    const auto split = [&](const at::Tensor& x) { return x.view({x.size(0), heads_, -1}); };
    return KeyValueRows{split(made[0]), split(made[1])};
  };
  table.keys_values.push_back(&keys_values_);
}

}  // namespace mmtune::nn
