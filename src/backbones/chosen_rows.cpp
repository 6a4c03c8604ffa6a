#include "backbones/chosen_rows.h"

#include <ATen/ATen.h>

namespace mmtune::backbones {

bool all_in_order(const std::vector<std::int64_t>& which, std::int64_t count) {
  if (static_cast<std::int64_t>(which.size()) != count) return false;
  for (std::int64_t i = 0; i < count; ++i)
    if (which[static_cast<std::size_t>(i)] != i) return false;
  return true;
}

Sequences chosen_sequences(const at::Tensor& rows, const nn::Layout& layout, const std::vector<std::int64_t>& which) {
  const std::int64_t batch = layout.batch(), length = layout.length(0);
  if (all_in_order(which, batch)) return {rows, layout};
  const at::Tensor index = nn::beside(at::tensor(which, at::kLong), rows), mask = layout.key_mask();
  return {
      rows.view({batch, length, -1}).index_select(0, index).flatten(0, 1),
      nn::Layout::uniform(static_cast<std::int64_t>(which.size()), length, mask.defined() ? mask.index_select(0, index) : at::Tensor())};
}

}  // namespace mmtune::backbones
