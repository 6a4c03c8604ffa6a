#include "backbones/backbone.h"

#include <ATen/ATen.h>

#include "core/error.h"

namespace mmtune::backbones {

std::string_view name_of(Modality modality) {
  switch (modality) {
    case Modality::text:
      return "text";
    case Modality::image:
      return "image";
    case Modality::audio:
      return "audio";
    case Modality::text_image:
      return "text and image";
  }
  MMTUNE_ASSERT(false);
  return "";
}

void Backbone::move_to(at::Device device) {
  for (const nn::TensorSlot& slot : sites().tensors) *slot.tensor = slot.tensor->to(device);
}

std::int64_t Backbone::parameter_count() {
  std::int64_t count = 0;
  for (const nn::TensorSlot& slot : sites().tensors) count += slot.tensor->numel();
  return count;
}

std::int64_t Backbone::rows_at(std::string_view, std::int64_t, std::int64_t tokens) const {
  return tokens;
}

std::int64_t Backbone::layer_of(std::string_view tensor) {
  for (const nn::SequenceSite* site : sites().sequences)
    if (tensor.size() > site->name.size() && tensor.starts_with(site->name) && tensor[site->name.size()] == '.') return site->layer;
  return 0;
}

std::int64_t encoder_macs(std::int64_t layers, std::int64_t width, std::int64_t inner, std::int64_t tokens, bool one_row) {
  const auto block = [=](std::int64_t queries) {
    return 2 * (tokens + queries) * width * width + 2 * queries * tokens * width + 2 * queries * width * inner;
  };
  return (layers - 1) * block(tokens) + block(one_row ? 1 : tokens);
}

Pooling resolved(Pooling pooling, const BackboneInfo& info) {
  if (pooling != Pooling::automatic) return pooling;
  if (info.usual_pooling != Pooling::automatic) return info.usual_pooling;
  return info.modality == Modality::image ? Pooling::first : Pooling::mean;
}

at::Tensor pool(const ModelOutputs& outputs, Pooling pooling) {
  switch (pooling) {
    case Pooling::first:
      return nn::first_rows(outputs.last_hidden_state, outputs.layout);
    case Pooling::mean:
      return nn::mean_rows(outputs.last_hidden_state, outputs.layout);
    case Pooling::patches: {
      MMTUNE_ASSERT(outputs.layout.is_uniform());
      const at::Tensor rows = outputs.last_hidden_state.view({outputs.layout.batch(), -1, outputs.last_hidden_state.size(1)});
      return rows.narrow(1, 1, rows.size(1) - 1).mean(1);
    }
    case Pooling::pooler:
      if (!outputs.pooler_output.defined())
        throw Error({.what = "the checkpoint has no pooler", .where = "pooling", .hint = "use pooling = \"first\" or \"mean\""});
      return outputs.pooler_output;
    case Pooling::projection:
      if (!outputs.embeds.defined()) throw Error({.what = "the checkpoint has no projection", .where = "pooling"});
      return outputs.embeds;
    case Pooling::all:
      MMTUNE_ASSERT(outputs.layout.is_uniform());
      return outputs.last_hidden_state.reshape({outputs.layout.batch(), -1});
    case Pooling::automatic:
      break;
  }
  MMTUNE_ASSERT(false);
  return {};
}

}  // namespace mmtune::backbones
