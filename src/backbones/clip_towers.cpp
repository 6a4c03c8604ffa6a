#include "backbones/clip_towers.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "backbones/named_inputs.h"
#include "backbones/patches.h"
#include "core/error.h"

namespace mmtune::backbones {

ClipTower::ClipTower(const ClipShape& shape, const nn::Weights& root, std::string_view projection, std::int64_t projected) : shape_(shape) {
  const nn::Weights weights = root / projection;
  if (projected > 0 && weights.has("weight"))
    projection_ = std::make_unique<nn::Linear>(weights, shape.width, projected, shape.layers, false);
}

void ClipTower::list_projection() {
  if (projection_) projection_->list(sites_);
}

std::int64_t ClipTower::rows_at(std::string_view name, std::int64_t, std::int64_t tokens) const {
  return projection_ && name == projection_->site().name ? 1 : tokens;
}

at::Tensor ClipTower::project(const at::Tensor& pooled, const nn::Context& context) const {
  return projection_ ? (*projection_)(pooled, context) : at::Tensor();
}

ClipImageTower::ClipImageTower(const Config& config, const nn::Weights& root, const nn::Weights& w, std::int64_t projected,
                               std::int64_t layers)
    : ClipTower(read_clip_shape(config, false), root, "visual_projection", projected),
      patch_height_(config.size("patch_size", 32).first),
      patch_width_(config.size("patch_size", 32).second),
      norm_before_(w / "pre_layrnorm", shape_.width, shape_.epsilon),
      encoder_(shape_, w / "encoder"),
      norm_after_(w / "post_layernorm", shape_.width, shape_.epsilon),
      read_layers_(layers) {
  MMTUNE_ASSERT(layers <= shape_.layers);
  const auto [height, width] = config.size("image_size", 224);
  info_ = {.architecture = "clip_vision_model",
           .modality = Modality::image,
           .width = shape_.width,
           .layers = shape_.layers,
           .heads = shape_.heads,
           .has_pooler = true,
           .usual_pooling = Pooling::pooler,
           .image_height = height,
           .image_width = width,
           .image_channels = config.integer("num_channels", 3)};
  info_.max_length = patches() + 1;
  info_.projected = projected_width();
  if (patches() == 0) throw Error({.what = "patch_size is larger than image_size", .where = config.where()});
  const nn::Weights embeddings = w / "embeddings";
  class_token_ = embeddings.tensor("class_embedding", {shape_.width});
  projection_weight_ = embeddings.tensor("patch_embedding.weight", {shape_.width, info_.image_channels, patch_height_, patch_width_});
  positions_ = embeddings.tensor("position_embedding.weight", {patches() + 1, shape_.width});
  sites_.inputs = {&input_};
  sites_.tensors = {{embeddings.path() + ".class_embedding", &class_token_},
                    {embeddings.path() + ".patch_embedding.weight", &projection_weight_},
                    {embeddings.path() + ".position_embedding.weight", &positions_}};
  norm_before_.list(sites_);
  encoder_.list(sites_);
  norm_after_.list(sites_);
  list_projection();
}

ModelOutputs ClipImageTower::forward(const ModelInputs& inputs, const nn::Context& context) {
  at::Tensor pixels = inputs.pixel_values;
  if (input_.hook) pixels = input_.hook->apply(pixels, context);
  const std::int64_t batch = pixels.size(0);
  const at::Tensor embedded = nn::frozen_matrix(patches_of(pixels, patch_height_, patch_width_),
                                                projection_weight_.view({shape_.width, -1}), {}, context.matmul_precision);
  const at::Tensor x = at::cat({class_token_.expand({batch, 1, shape_.width}), embedded}, 1) + positions_;
  nn::Tokens tokens{norm_before_(x).view({-1, shape_.width}), nn::Layout::uniform(batch, patches() + 1)};
  if (read_layers_ > 0) {
    encoder_.first(read_layers_, tokens, context);
    return {.last_hidden_state = tokens.rows, .layout = tokens.layout};
  }
  const bool first_only = context.read == nn::ReadRows::first;
  encoder_(tokens, first_only ? at::zeros({batch}, at::kLong) : at::Tensor(), context);
  ModelOutputs outputs{.last_hidden_state = tokens.rows, .layout = tokens.layout};
  outputs.pooler_output = norm_after_(nn::first_rows(tokens.rows, tokens.layout));
  outputs.embeds = project(outputs.pooler_output, context);
  return outputs;
}

TensorMap ClipImageTower::forward_named(const TensorMap& inputs, const nn::Context& context) {
  refuse_unknown_inputs(inputs, {"pixel_values"});
  ModelInputs batch;
  batch.pixel_values = picture_input(inputs, info_.image_channels, info_.image_height, info_.image_width);
  const ModelOutputs outputs = forward(batch, context);
  TensorMap result{{"last_hidden_state", outputs.last_hidden_state.view({outputs.layout.batch(), -1, shape_.width})},
                   {"pooler_output", outputs.pooler_output}};
  if (outputs.embeds.defined()) result["image_embeds"] = outputs.embeds;
  return result;
}

std::int64_t ClipImageTower::macs(std::int64_t tokens, bool read_first) const {
  const std::int64_t embedding = patches() * info_.image_channels * patch_height_ * patch_width_ * shape_.width;
  if (read_layers_ > 0) return embedding + encoder_macs(read_layers_, shape_.width, shape_.inner, tokens, false);
  return embedding + encoder_.macs(tokens, read_first) + projection_macs();
}

/// Old configurations name this one, which is not the one; transformers then takes a text's largest id for its end.
constexpr std::int64_t mistaken_end = 2;

ClipTextTower::ClipTextTower(const Config& config, const nn::Weights& root, const nn::Weights& w, std::int64_t projected)
    : ClipTower(read_clip_shape(config, true), root, "text_projection", projected),
      vocabulary_(config.integer("vocab_size", 49408)),
      end_token_(config.integer("eos_token_id", 49407)),
      encoder_(shape_, w / "encoder"),
      norm_(w / "final_layer_norm", shape_.width, shape_.epsilon) {
  info_ = {.architecture = "clip_text_model",
           .modality = Modality::text,
           .width = shape_.width,
           .layers = shape_.layers,
           .heads = shape_.heads,
           .has_pooler = true,
           .has_class_token = false,
           .usual_pooling = Pooling::pooler,
           .max_length = config.integer("max_position_embeddings", 77),
           .end_token = end_token_ == mistaken_end ? vocabulary_ - 1 : end_token_};
  info_.projected = projected_width();
  const nn::Weights embeddings = w / "embeddings";
  words_ = embeddings.matrix("token_embedding.weight", {vocabulary_, shape_.width});
  positions_ = embeddings.tensor("position_embedding.weight", {info_.max_length, shape_.width});
  sites_.tensors = {{embeddings.path() + ".token_embedding.weight", &words_},
                    {embeddings.path() + ".position_embedding.weight", &positions_}};
  encoder_.list(sites_);
  norm_.list(sites_);
  list_projection();
}

/// Where the end-of-text token stands in every sequence, by transformers' two rules: checkpoints whose configuration says 2 (an old
/// mistake) take the first of the largest ids, all others the first eos_token_id, and row 0 where there is none.
at::Tensor ClipTextTower::end_positions(const ModelInputs& inputs) const {
  at::Tensor positions = at::empty({inputs.text_layout.batch()}, at::kLong);
  auto* out = positions.data_ptr<std::int64_t>();
  const at::Tensor ids = inputs.input_ids.to(at::kCPU).contiguous();
  const auto* begin = ids.const_data_ptr<std::int64_t>();
  for (const std::int64_t length : inputs.text_layout.lengths()) {
    const auto* const end = begin + length;
    const auto* const found = end_token_ == mistaken_end ? std::max_element(begin, end) : std::find(begin, end, end_token_);
    *out++ = found == end ? 0 : found - begin;
    begin = end;
  }
  return positions;
}

namespace {

/// The same texts without the rows behind `ends` [B], which a causal encoder does not need for them. Nothing where a row up to there is
/// masked: then no layout without a mask says the same.
std::optional<ModelInputs> without_tails(const ModelInputs& inputs, const at::Tensor& ends) {
  const nn::Layout& layout = inputs.text_layout;
  const auto* const end = ends.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> lengths;
  for (std::int64_t b = 0; b < layout.batch(); ++b) lengths.push_back(end[b] + 1);
  if (!layout.key_mask().defined() && lengths == layout.lengths()) return inputs;
  if (layout.key_mask().defined())
    for (std::int64_t b = 0; b < layout.batch(); ++b)
      if (!layout.key_mask()[b].narrow(0, 0, lengths[static_cast<std::size_t>(b)]).all().item<bool>()) return std::nullopt;
  std::vector<at::Tensor> rows;
  const std::vector<std::int64_t> offsets = layout.offsets();
  for (std::size_t b = 0; b < lengths.size(); ++b) rows.push_back(at::arange(offsets[b], offsets[b] + lengths[b], at::kLong));
  const at::Tensor index = nn::beside(at::cat(rows), inputs.input_ids);
  ModelInputs result;
  result.text_layout = nn::Layout::packed(std::move(lengths));
  result.input_ids = inputs.input_ids.index_select(0, index);
  if (inputs.position_ids.defined()) result.position_ids = inputs.position_ids.index_select(0, index);
  return result;
}

}  // namespace

ModelOutputs ClipTextTower::forward(const ModelInputs& given, const nn::Context& context) {
  const bool has_ids = given.input_ids.defined();
  MMTUNE_ASSERT(has_ids || context.read == nn::ReadRows::all);
  const at::Tensor ends = has_ids ? end_positions(given) : at::Tensor();
  // Squared gradients of single examples need as many rows of each.
  const bool shortens = context.read == nn::ReadRows::first && context.examples == 0;
  const std::optional<ModelInputs> shortened = shortens ? without_tails(given, ends) : std::nullopt;
  const ModelInputs& inputs = shortened ? *shortened : given;

  const at::Tensor words = has_ids ? nn::lookup(words_, inputs.input_ids) : inputs.inputs_embeds;
  const at::Tensor places =
      inputs.position_ids.defined() ? inputs.position_ids : nn::positions_within(inputs.text_layout, 0, info_.max_length);
  nn::Tokens tokens{words + at::embedding(positions_, nn::beside(places, words)), inputs.text_layout};
  nn::Context own = context;
  if (!shortened) own.read = nn::ReadRows::all;
  encoder_(tokens, shortened ? ends : at::Tensor(), own);

  ModelOutputs outputs{.last_hidden_state = norm_(tokens.rows), .layout = tokens.layout};
  if (!has_ids) return outputs;
  outputs.pooler_output = outputs.last_hidden_state;
  if (!shortened) {
    const std::vector<std::int64_t> offsets = tokens.layout.offsets();
    const at::Tensor starts = at::tensor(at::ArrayRef<std::int64_t>(offsets).slice(0, offsets.size() - 1), at::kLong);
    outputs.pooler_output = outputs.last_hidden_state.index_select(0, nn::beside(starts + ends, tokens.rows));
  }
  outputs.embeds = project(outputs.pooler_output, context);
  return outputs;
}

TensorMap ClipTextTower::forward_named(const TensorMap& inputs, const nn::Context& context) {
  refuse_unknown_inputs(inputs, {"input_ids", "attention_mask", "position_ids", "inputs_embeds"});
  const ModelOutputs outputs = forward(text_inputs(inputs, vocabulary_, 1, info_.max_length, shape_.width), context);
  TensorMap result{{"last_hidden_state", outputs.last_hidden_state.view({outputs.layout.batch(), -1, shape_.width})}};
  if (outputs.pooler_output.defined()) result["pooler_output"] = outputs.pooler_output;
  if (outputs.embeds.defined()) result["text_embeds"] = outputs.embeds;
  return result;
}

std::int64_t ClipTextTower::macs(std::int64_t tokens, bool read_first) const {
  return encoder_.macs(tokens, read_first) + projection_macs();
}

}  // namespace mmtune::backbones
