#include "backbones/language_attention.h"

#include <ATen/ATen.h>

#include "core/error.h"

namespace mmtune::backbones {

void ReadingCache::select(const at::Tensor& rows) {
  if (!visible.defined()) return;  // nothing was read
  for (CachedKeys& block : blocks) {
    if (!block.keys.defined()) continue;
    block.keys = block.keys.index_select(0, nn::beside(rows, block.keys));
    block.values = block.values.index_select(0, nn::beside(rows, block.values));
  }
  visible = visible.index_select(0, nn::beside(rows, visible));
  const at::Tensor which = rows.to(at::kCPU).contiguous();
  std::vector<std::int64_t> chosen;
  for (std::int64_t i = 0; i < which.numel(); ++i) chosen.push_back(lengths.at(static_cast<std::size_t>(which[i].item<std::int64_t>())));
  lengths = std::move(chosen);
}

LanguageAttention::LanguageAttention(const nn::Weights& w, const LanguageAttentionShape& shape, const LanguageAttentionNames& names,
                                     std::int64_t layer, bool cross)
    : shape_(shape),
      cross_(cross),
      query_(w / names.query, shape.width, shape.heads * shape.head_width, layer, shape.bias),
      key_(w / names.key, shape.width, shape.key_heads * shape.head_width, layer, shape.bias),
      value_(w / names.value, shape.width, shape.key_heads * shape.head_width, layer, shape.bias),
      output_(w / names.output, shape.heads * shape.head_width, shape.width, layer, shape.output_bias),
      keys_values_{.name = w.path(), .heads = shape.key_heads, .head_width = shape.head_width, .layer = layer} {
  MMTUNE_ASSERT(shape.heads % shape.key_heads == 0);
}

at::Tensor LanguageAttention::spread(const at::Tensor& x) const {
  if (shape_.heads == shape_.key_heads) return x;
  return x.view({x.size(0), shape_.key_heads, 1, shape_.head_width})
      .expand({x.size(0), shape_.key_heads, shape_.heads / shape_.key_heads, shape_.head_width})
      .reshape({x.size(0), -1});
}

at::Tensor LanguageAttention::operator()(const at::Tensor& x, const nn::Layout& layout, const Pass& pass,
                                         const nn::Context& context) const {
  at::Tensor query, key, value;
  if (pass.narrow == nullptr) {
    const nn::Linear* const maps[] = {&query_, &key_, &value_};
    std::vector<at::Tensor> made = nn::linear_group(x, maps, context);
    query = nn::rotated(asked(made[0]), pass.rotation);
    key = made[1];
    value = made[2];
  } else {
    MMTUNE_ASSERT(pass.cache == nullptr);
    const nn::Linear* const maps[] = {&key_, &value_};
    std::vector<at::Tensor> made = nn::linear_group(x, maps, context);
    key = made[0];
    value = made[1];
    const at::Tensor& rows = pass.narrow->rows;
    nn::Rotation turns;
    if (pass.rotation.defined()) turns = {pass.rotation.cosines.index_select(0, rows), pass.rotation.sines.index_select(0, rows)};
    query = nn::rotated(asked(query_(x.index_select(0, rows), context)), turns);
  }
  key = nn::rotated(key, pass.rotation);
  nn::Layout key_layout = layout;
  nn::AttentionOptions options{.causal = shape_.causal, .bias = pass.bias};
  if (pass.cache != nullptr) {
    ReadingCache& cache = *pass.cache;
    CachedKeys& past = cache.blocks.at(pass.block);
    const std::int64_t batch = layout.batch(), length = layout.length(0);
    MMTUNE_ASSERT(layout.is_uniform());
    const auto behind = [&](const at::Tensor& before, const at::Tensor& rows) {
      const at::Tensor own = rows.view({batch, length, -1});
      return before.defined() ? at::cat({before, own}, 1) : own;
    };
    const CachedKeys all{behind(past.keys, key), behind(past.values, value)};
    at::Tensor own_mask = layout.key_mask();
    if (!own_mask.defined()) own_mask = at::ones({batch, length}, at::TensorOptions().dtype(at::kBool).device(key.device()));
    at::Tensor mask = past.keys.defined() ? at::cat({cache.visible, own_mask}, 1) : own_mask;
    // Rows of an expert that stand among the block's own and in no other's.
    if (mask.size(1) < all.length()) mask = at::cat({at::ones({batch, all.length() - mask.size(1)}, mask.options()), mask}, 1);
    key_layout = nn::Layout::uniform(batch, all.length(), mask);
    key = all.keys.reshape({batch * all.length(), -1});
    value = all.values.reshape({batch * all.length(), -1});
    if (cache.tree.defined()) {
      options.causal = false;
      options.group_bias = at::constant_pad_nd(cache.tree, {all.length() - cache.tree.size(2), 0});
    }
    if (cache.keep) past = all;
  }
  std::optional<nn::KeyValueRows> prefix;
  if (keys_values_.hook) {
    prefix = keys_values_.hook->rows(context);
    const auto widened = [&](const at::Tensor& rows) {
      return shape_.heads == shape_.key_heads ? rows : rows.repeat_interleave(shape_.heads / shape_.key_heads, -2);
    };
    prefix = nn::KeyValueRows{widened(prefix->keys), widened(prefix->values)};
    options.prefix = &*prefix;
  }
  const at::Tensor out = nn::attention(query, spread(key), spread(value), shape_.heads,
                                       pass.narrow == nullptr ? layout : pass.narrow->layout, key_layout, options);
  return output_(out, context);
}

std::vector<at::Tensor> LanguageAttention::keys_values(const at::Tensor& rows, const nn::Context& context) const {
  const nn::Linear* const maps[] = {&key_, &value_};
  std::vector<at::Tensor> made = nn::linear_group(rows, maps, context);
  for (at::Tensor& one : made) one = spread(one);
  return made;
}

at::Tensor LanguageAttention::cross(const at::Tensor& x, const std::vector<at::Tensor>& keys_values, const nn::Layout& layout,
                                    const nn::Layout& source_layout, const nn::Context& context) const {
  const at::Tensor out = nn::attention(asked(query_(x, context)), keys_values[0], keys_values[1], shape_.heads, layout, source_layout, {});
  return output_(out, context);
}

void LanguageAttention::list(nn::SiteTable& table) {
  for (nn::Linear* map : {&query_, &key_, &value_, &output_}) map->list(table);
  if (cross_) return;
  keys_values_.project = [this](const at::Tensor& rows, const nn::Context& context) {
    const nn::Linear* const maps[] = {&key_, &value_};
    const std::vector<at::Tensor> made = nn::linear_group(rows, maps, context);
    const auto split = [&](const at::Tensor& x) { return x.view({x.size(0), shape_.key_heads, -1}); };
    return nn::KeyValueRows{split(made[0]), split(made[1])};
  };
  table.keys_values.push_back(&keys_values_);
}

std::int64_t LanguageAttention::macs(std::int64_t queries, std::int64_t keys) const {
  const std::int64_t inner = shape_.heads * shape_.head_width, key_inner = shape_.key_heads * shape_.head_width;
  return 2 * queries * shape_.width * inner + 2 * keys * shape_.width * key_inner + 2 * queries * keys * inner;
}

}  // namespace mmtune::backbones
