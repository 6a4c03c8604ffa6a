#include "backbones/ofa.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "backbones/chosen_rows.h"
#include "backbones/named_inputs.h"
#include "core/error.h"

namespace mmtune::backbones {

namespace {

constexpr double epsilon = 1e-5;
constexpr std::int64_t padding = 1;
constexpr std::int64_t patch_side = 16;   ///< pixels
constexpr std::int64_t usual_side = 480;  ///< of pictures

std::unique_ptr<nn::LayerNorm> norm(const nn::Weights& w, std::int64_t width) {
  return std::make_unique<nn::LayerNorm>(w, width, epsilon);
}

}  // namespace

void Ofa::open_side(Side& side, const nn::Weights& w, bool decoder) {
  const std::int64_t width = shape_.width;
  side.positions = (w / "embed_positions").tensor("weight", {decoder ? shape_.decoder_positions : shape_.encoder_positions, width});
  side.embedding_norm = norm(w / "layernorm_embedding", width);
  side.position_norm = norm(w / "pos_ln", width);
  side.norm = norm(w / "layer_norm", width);
  const std::int64_t layers = decoder ? shape_.decoder_layers : shape_.encoder_layers;
  const OfaLayerShape layer{
      .width = width, .heads = shape_.heads, .inner = decoder ? shape_.decoder_inner : shape_.encoder_inner, .names = shape_.names};
  const std::int64_t token_rows = 2 * shape_.token_buckets - 1, line = 2 * shape_.image_buckets - 1;
  for (std::int64_t l = 0; l < layers; ++l) {
    side.layers.push_back(std::make_unique<OfaLayer>(w / "layers" / l, layer, decoder ? shape_.encoder_layers + l : l, decoder));
    side.token_tables.push_back((w / "token_rel_pos_table_list" / l).tensor("weight", {token_rows, shape_.heads}));
    if (!decoder && shape_.pictures)
      side.image_tables.push_back((w / "image_rel_pos_table_list" / l).tensor("weight", {line * line + 3, shape_.heads}));
  }
  if (decoder || !shape_.pictures) return;
  side.image_positions = (w / "embed_image_positions").tensor("weight", {shape_.image_positions, width});
  side.image_position_norm = norm(w / "image_pos_ln", width);
}

Ofa::Ofa(const OfaShape& shape, const nn::Weights& w) : shape_(shape) {
  const std::int64_t width = shape_.width;
  if (shape_.image_positions == 0) shape_.image_positions = shape_.image_buckets * shape_.image_buckets + 1;
  // One tensor, which files have under one name or several.
  std::string embedding_name = "encoder.embed_tokens.weight";
  for (const char* other : {"decoder.embed_tokens.weight", "shared.weight", "decoder.output_projection.weight"})
    if (!w.has(embedding_name)) embedding_name = other;
  embedding_ = w.matrix(embedding_name, {shape_.vocabulary, width});
  const nn::Weights encoder = w / "encoder", decoder = w / "decoder";
  open_side(encoder_, encoder, false);
  open_side(decoder_, decoder, true);
  types_ = (encoder / "type_embedding").tensor("weight", {2, width});
  const auto map = [&](const nn::Weights& scope) { return std::make_unique<nn::Linear>(scope, width, width, 0); };
  position_q_ = map(encoder / "pos_q_linear");
  position_k_ = map(encoder / "pos_k_linear");
  self_q_ = map(decoder / "self_pos_q_linear");
  self_k_ = map(decoder / "self_pos_k_linear");
  cross_q_ = map(decoder / "cross_pos_q_linear");
  cross_k_ = map(decoder / "cross_pos_k_linear");
  if (shape_.pictures) {
    stem_ = std::make_unique<OfaStem>(encoder / "embed_images", shape_.stem);
    image_projection_ = std::make_unique<nn::Linear>(encoder / "image_proj", shape_.stem.channels(), width, 0);
    patch_norm_ = norm(encoder / "patch_layernorm_embedding", width);
  }
  report_ = w.finish();
  token_buckets_ = ofa_token_buckets(shape_.token_buckets, std::max(shape_.encoder_positions, shape_.decoder_positions));
  if (shape_.pictures) image_buckets_ = ofa_image_buckets(shape_.image_buckets);

  sites_.tensors.push_back({embedding_name, &embedding_});
  const auto list = [&](Side& side, const std::string& name) {
    sites_.tensors.push_back({name + ".embed_positions.weight", &side.positions});
    for (const auto& one : {side.embedding_norm.get(), side.position_norm.get(), side.norm.get(), side.image_position_norm.get()})
      if (one != nullptr) one->list(sites_);
    if (side.image_positions.defined()) sites_.tensors.push_back({name + ".embed_image_positions.weight", &side.image_positions});
    for (std::size_t l = 0; l < side.layers.size(); ++l) {
      side.layers[l]->list(sites_);
      sites_.tensors.push_back({name + ".token_rel_pos_table_list." + std::to_string(l) + ".weight", &side.token_tables[l]});
      if (!side.image_tables.empty())
        sites_.tensors.push_back({name + ".image_rel_pos_table_list." + std::to_string(l) + ".weight", &side.image_tables[l]});
    }
  };
  list(encoder_, "encoder");
  list(decoder_, "decoder");
  sites_.tensors.push_back({"encoder.type_embedding.weight", &types_});
  if (stem_) stem_->list(sites_);
  // The maps of the positions are no sites of experts: what they make is the same for every example.
  for (nn::Linear* one : {position_q_.get(), position_k_.get(), self_q_.get(), self_k_.get(), cross_q_.get(), cross_k_.get()}) {
    sites_.tensors.push_back({one->site().name + ".weight", &one->site().weight});
    sites_.tensors.push_back({one->site().name + ".bias", &one->site().bias});
  }
  if (image_projection_) {
    image_projection_->list(sites_);
    patch_norm_->list(sites_);
  }
  info_ = {.architecture = "ofa",
           .modality = shape_.pictures ? Modality::text_image : Modality::text,
           .width = width,
           .layers = shape_.encoder_layers + shape_.decoder_layers,
           .heads = shape_.heads,
           .has_class_token = false,
           .usual_pooling = Pooling::mean,
           .max_length = shape_.encoder_positions - 2,
           .image_height = usual_side,
           .image_width = usual_side,
           .image_channels = 3,
           .any_image_size = true,
           .patch_height = patch_side,
           .patch_width = patch_side};
}

/// Normed positions of a picture's patches, then of words: [S, D].
at::Tensor Ofa::positions_of(const Side& side, std::int64_t words, std::int64_t rows, std::int64_t columns) const {
  if (words > side.positions.size(0))
    throw Error({.what = "a text is longer than the position table",
                 .expected = "at most " + std::to_string(side.positions.size(0)) + " tokens",
                 .got = std::to_string(words)});
  at::Tensor positions = (*side.position_norm)(side.positions.narrow(0, 0, words));
  if (rows == 0) return positions;
  const at::Tensor places =
      (at::arange(rows, at::kLong).unsqueeze(1) * shape_.image_buckets + at::arange(columns, at::kLong) + 1).flatten();
  const at::Tensor patches = (*side.image_position_norm)(at::embedding(side.image_positions, nn::beside(places, side.image_positions)));
  return at::cat({patches, positions});
}

double Ofa::position_scale() const {
  return 1.0 / std::sqrt(2.0 * static_cast<double>(shape_.width) / static_cast<double>(shape_.heads));
}

at::Tensor Ofa::heads_of(const at::Tensor& rows) const {
  return rows.view({rows.size(0), shape_.heads, -1}).transpose(0, 1);
}

/// [H, Tq, Tk], scaled as the queries are.
at::Tensor Ofa::absolute(const at::Tensor& queries, const at::Tensor& keys, const nn::Linear& q, const nn::Linear& k) const {
  return heads_of(q(queries, {}) * position_scale()).matmul(heads_of(k(keys, {})).transpose(1, 2));
}

at::Tensor Ofa::token_bias(const Side& side, std::int64_t layer, std::int64_t words) const {
  const at::Tensor index = nn::beside(token_buckets_.narrow(0, 0, words).narrow(1, 0, words), side.positions);
  return at::embedding(side.token_tables[static_cast<std::size_t>(layer)], index).permute({2, 0, 1});
}

at::Tensor Ofa::encoder_bias(std::int64_t layer, std::int64_t words, std::int64_t rows, std::int64_t columns) const {
  const at::Tensor positions = positions_of(encoder_, words, rows, columns);
  return encoder_bias(absolute(positions, positions, *position_q_, *position_k_), layer, words, rows, columns);
}

at::Tensor Ofa::encoder_bias(const at::Tensor& absolute, std::int64_t layer, std::int64_t words, std::int64_t rows,
                             std::int64_t columns) const {
  at::Tensor bias = absolute.clone();
  const std::int64_t patches = rows * columns;
  bias.narrow(1, patches, words).narrow(2, patches, words).add_(token_bias(encoder_, layer, words));
  if (patches > 0) {
    const at::Tensor places =
        (at::arange(rows, at::kLong).unsqueeze(1) * shape_.image_buckets + at::arange(columns, at::kLong) + 1).flatten();
    const at::Tensor index = image_buckets_.index_select(0, places).index_select(1, places);
    bias.narrow(1, 0, patches)
        .narrow(2, 0, patches)
        .add_(at::embedding(encoder_.image_tables[static_cast<std::size_t>(layer)], nn::beside(index, bias)).permute({2, 0, 1}));
  }
  return bias;
}

at::Tensor Ofa::decoder_bias(std::int64_t layer, std::int64_t words) const {
  const at::Tensor positions = positions_of(decoder_, words, 0, 0);
  return absolute(positions, positions, *self_q_, *self_k_) + token_bias(decoder_, layer, words);
}

at::Tensor Ofa::cross_bias(std::int64_t words, const OfaEncoded& encoded) const {
  return absolute(positions_of(decoder_, words, 0, 0), encoded.positions, *cross_q_, *cross_k_);
}

OfaEncoded Ofa::encode(const OfaSource& source, const nn::Context& context) {
  const std::int64_t batch = source.words.size(0), words = source.words.size(1), width = shape_.width;
  at::Tensor there = source.words.ne(padding);
  at::Tensor x = nn::dropout((*encoder_.embedding_norm)(nn::lookup(embedding_, source.words).view({-1, width}) + types_.select(0, 0)),
                             noise_.dropout, context)
                     .view({batch, words, width});
  std::int64_t rows = 0, columns = 0;
  if (source.pictures.defined()) {
    if (!stem_) throw Error({.what = "the model was opened without its stem for pictures", .where = "pixel_values"});
    at::Tensor features;
    {
      const at::NoGradGuard no_grad;  // the stem is frozen
      features = (*stem_)(source.pictures, source.statistics);
    }
    rows = features.size(2);
    columns = features.size(3);
    if (rows > shape_.image_buckets || columns > shape_.image_buckets ||
        (rows - 1) * shape_.image_buckets + columns >= shape_.image_positions)
      throw Error({.what = "the picture has more patches than the model knows places",
                   .where = "pixel_values",
                   .expected = "at most " + std::to_string(patch_side * shape_.image_buckets) + " pixels a side"});
    const at::Tensor patches = features.flatten(2).transpose(1, 2).reshape({-1, features.size(1)});
    const at::Tensor embedded =
        nn::dropout((*patch_norm_)((*image_projection_)(patches, context) + types_.select(0, 1)), noise_.dropout, context);
    x = at::cat({embedded.view({batch, rows * columns, width}), x}, 1);
    at::Tensor seen = at::ones({batch, rows * columns}, there.options());
    if (source.picture_there.defined()) seen = seen.logical_and(source.picture_there.to(at::kBool).unsqueeze(1));
    there = at::cat({seen, there}, 1);
  }
  const std::int64_t length = x.size(1);
  OfaEncoded encoded{.rows = (x * there.unsqueeze(2).to(x.scalar_type())).view({batch * length, width}),
                     .layout = nn::Layout::uniform(batch, length, there),
                     .positions = positions_of(encoder_, words, rows, columns)};
  // What does not depend on the layer is made once.
  const at::Tensor base = absolute(encoded.positions, encoded.positions, *position_q_, *position_k_);
  watch("encoder.input", encoded.rows);
  for (std::int64_t l = 0; l < shape_.encoder_layers; ++l) {
    encoded.rows = (*encoder_.layers[static_cast<std::size_t>(l)])(encoded.rows, encoded.layout,
                                                                   encoder_bias(base, l, words, rows, columns), std::nullopt, context);
    watch("encoder.layers." + std::to_string(l), encoded.rows);
  }
  encoded.rows = (*encoder_.norm)(encoded.rows);
  return encoded;
}

at::Tensor Ofa::decode_rows(const at::Tensor& words, const OfaEncoded& encoded, const nn::Context& context) {
  const std::int64_t batch = words.size(0), length = words.size(1);
  at::Tensor x = nn::dropout((*decoder_.embedding_norm)(nn::lookup(embedding_, words).view({-1, shape_.width})), noise_.dropout, context);
  const nn::Layout layout = nn::Layout::uniform(batch, length, words.ne(padding));
  const at::Tensor cross = cross_bias(length, encoded);
  const OfaLayer::Source source{&encoded.rows, &encoded.layout, &cross};
  const at::Tensor positions = positions_of(decoder_, length, 0, 0);
  const at::Tensor base = absolute(positions, positions, *self_q_, *self_k_);
  watch("decoder.input", x);
  for (std::int64_t l = 0; l < shape_.decoder_layers; ++l) {
    x = (*decoder_.layers[static_cast<std::size_t>(l)])(x, layout, base + token_bias(decoder_, l, length), source, context);
    watch("decoder.layers." + std::to_string(l), x);
  }
  return (*decoder_.norm)(x);
}

at::Tensor Ofa::decode(const at::Tensor& words, const OfaEncoded& encoded, const nn::Context& context) {
  return nn::frozen_matrix(decode_rows(words, encoded, context), embedding_).view({words.size(0), words.size(1), -1});
}

at::Tensor Ofa::decode_last(const at::Tensor& words, const OfaEncoded& encoded, const nn::Context& context) {
  const at::Tensor rows = decode_rows(words, encoded, context).view({words.size(0), words.size(1), shape_.width});
  return nn::frozen_matrix(rows.select(1, words.size(1) - 1), embedding_);
}

void Ofa::set_noise(const SequenceNoise& noise) {
  noise_ = noise;
  for (Side* side : {&encoder_, &decoder_}) {
    const auto last = static_cast<double>(std::max<std::size_t>(side->layers.size(), 2) - 1);
    for (std::size_t l = 0; l < side->layers.size(); ++l)
      side->layers[l]->set_noise(noise.dropout, noise.drop_path * static_cast<double>(l) / last);
  }
}

OfaEncoded Ofa::encode_inputs(const ModelInputs& inputs, const nn::Context& context) {
  const nn::Layout& texts = inputs.text_layout;
  const std::int64_t batch = texts.batch();
  OfaSource source;
  if (texts.is_uniform()) {
    source.words = inputs.input_ids.view({batch, -1});
    if (texts.key_mask().defined()) source.words = source.words.masked_fill(texts.key_mask().logical_not(), padding);
  } else {
    std::int64_t longest = 0;
    for (const std::int64_t length : texts.lengths()) longest = std::max(longest, length);
    source.words = at::full({batch, longest}, padding, inputs.input_ids.options());
    const std::vector<std::int64_t> offsets = texts.offsets();
    for (std::int64_t b = 0; b < batch; ++b)
      source.words.select(0, b)
          .narrow(0, 0, texts.length(b))
          .copy_(inputs.input_ids.narrow(0, offsets[static_cast<std::size_t>(b)], texts.length(b)));
  }
  source.pictures = inputs.pixel_values;
  if (source.pictures.defined() && !inputs.picture_sizes.empty()) {
    source.picture_there = at::ones({batch}, at::kBool);
    const std::pair whole(source.pictures.size(2), source.pictures.size(3));
    for (std::int64_t b = 0; b < batch; ++b) {
      const auto& size = inputs.picture_sizes[static_cast<std::size_t>(b)];
      if (size.first > 0 && size != whole) throw Error({.what = "the pictures of a batch must have one size", .where = "pixel_values"});
      source.picture_there.data_ptr<bool>()[b] = size.first > 0;
    }
    source.picture_there = source.picture_there.to(source.words.device());
  }
  return encode(source, context);
}

namespace {

/// What the encoder made, a row for each of `rows`.
OfaEncoded chosen(const OfaEncoded& encoded, const std::vector<std::int64_t>& rows) {
  Sequences chosen = chosen_sequences(encoded.rows, encoded.layout, rows);
  return {.rows = std::move(chosen.rows), .layout = std::move(chosen.layout), .positions = encoded.positions};
}

}  // namespace

at::Tensor Ofa::taught(const ModelInputs& inputs, const std::vector<std::int64_t>& rows, const at::Tensor& said, const at::Tensor& wanted,
                       const nn::Context& context) {
  const at::Tensor words = nn::beside(said, embedding_);
  const at::Tensor hidden = decode_rows(words, chosen(encode_inputs(inputs, context), rows), context);
  return nn::frozen_matrix(hidden.index_select(0, nn::beside(wanted.flatten().nonzero().squeeze(1), hidden)), embedding_);
}

std::unique_ptr<CachedDecoder> Ofa::begin(const ModelInputs& inputs, const std::vector<std::int64_t>& rows, const nn::Context& context) {
  const at::NoGradGuard no_grad;
  const OfaEncoded encoded = encode_inputs(inputs, context);
  auto made = decoder(encoded, context);
  made->select(at::tensor(rows, at::kLong));
  return made;
}

ModelOutputs Ofa::forward(const ModelInputs& inputs, const nn::Context& context) {
  const OfaEncoded encoded = encode_inputs(inputs, context);
  return {.last_hidden_state = encoded.rows, .layout = encoded.layout};
}

TensorMap Ofa::forward_named(const TensorMap& inputs, const nn::Context& context) {
  refuse_unknown_inputs(inputs, {"input_ids", "attention_mask", "patch_images", "patch_masks", "decoder_input_ids"});
  const auto words_named = [&](const std::string& name) {
    at::Tensor words = optional_input(inputs, name, 2);
    if (!words.defined()) return words;
    if (words.scalar_type() != at::kLong && words.scalar_type() != at::kInt)
      throw Error({.what = "input has another dtype", .where = name, .expected = "int64"});
    if (words.numel() == 0 || words.min().item<std::int64_t>() < 0 || words.max().item<std::int64_t>() >= shape_.vocabulary)
      throw Error({.what = "input has ids outside of the vocabulary, or none",
                   .where = name,
                   .expected = "0 to " + std::to_string(shape_.vocabulary - 1)});
    return words.to(at::kLong);
  };
  OfaSource source;
  source.words = words_named("input_ids");
  if (!source.words.defined()) throw Error({.what = "input is missing", .where = "input_ids"});
  const std::int64_t batch = source.words.size(0);
  if (const at::Tensor mask = optional_input(inputs, "attention_mask", 2); mask.defined()) {
    if (mask.sizes() != source.words.sizes()) throw Error({.what = "input has another shape than input_ids", .where = "attention_mask"});
    source.words = source.words.masked_fill(mask.eq(0), padding);
  }
  if (inputs.contains("patch_images")) {
    source.pictures = optional_input(inputs, "patch_images", 4);
    if (source.pictures.size(0) != batch || source.pictures.size(1) != 3 || source.pictures.scalar_type() != at::kFloat)
      throw Error({.what = "input has another shape or dtype", .where = "patch_images", .expected = "float32 [B, 3, H, W]"});
  }
  if (inputs.contains("patch_masks")) {
    source.picture_there = optional_input(inputs, "patch_masks", 1).ne(0);
    if (source.picture_there.size(0) != batch) throw Error({.what = "input has another shape", .where = "patch_masks", .expected = "[B]"});
  }
  const OfaEncoded encoded = encode(source, context);
  TensorMap result{{"encoder_last_hidden_state", encoded.rows.view({batch, -1, shape_.width})}};
  if (const at::Tensor words = words_named("decoder_input_ids"); words.defined()) {
    if (words.size(0) != batch) throw Error({.what = "input has another batch than input_ids", .where = "decoder_input_ids"});
    result["logits"] = decode(words, encoded, context);
  }
  return result;
}

std::int64_t Ofa::macs(std::int64_t tokens, bool) const {
  return encoder_macs(shape_.encoder_layers, shape_.width, shape_.encoder_inner, tokens, false) +
         2 * shape_.decoder_layers * tokens * shape_.width * shape_.width;
}

std::int64_t Ofa::picture_macs(std::int64_t patches) const {
  return stem_ ? stem_->macs(patches) + patches * shape_.stem.channels() * shape_.width : 0;
}

}  // namespace mmtune::backbones
