#include "backbones/ofa.h"

#include <ATen/ATen.h>

#include <cmath>

#include "core/error.h"

namespace mmtune::backbones {

namespace {

constexpr double epsilon = 1e-5;
constexpr std::int64_t padding = 1;

std::unique_ptr<nn::LayerNorm> norm(const nn::Weights& w, std::int64_t width) {
  return std::make_unique<nn::LayerNorm>(w, width, epsilon);
}

}  // namespace

void Ofa::open_side(Side& side, const nn::Weights& w, bool decoder) {
  const std::int64_t width = shape_.width;
  side.embedding = (w / "embed_tokens").matrix("weight", {shape_.vocabulary, width});
  side.positions = (w / "embed_positions").tensor("weight", {decoder ? shape_.decoder_positions : shape_.encoder_positions, width});
  side.embedding_norm = norm(w / "layernorm_embedding", width);
  side.position_norm = norm(w / "pos_ln", width);
  side.norm = norm(w / "layer_norm", width);
  const std::int64_t layers = decoder ? shape_.decoder_layers : shape_.encoder_layers;
  const OfaLayerShape layer{.width = width, .heads = shape_.heads, .inner = decoder ? shape_.decoder_inner : shape_.encoder_inner};
  const std::int64_t token_rows = 2 * shape_.token_buckets - 1, line = 2 * shape_.image_buckets - 1;
  for (std::int64_t l = 0; l < layers; ++l) {
    side.layers.push_back(std::make_unique<OfaLayer>(w / "layers" / l, layer, decoder ? shape_.encoder_layers + l : l, decoder));
    side.token_tables.push_back((w / "token_rel_pos_table_list" / l).tensor("weight", {token_rows, shape_.heads}));
    if (!decoder && shape_.pictures)
      side.image_tables.push_back((w / "image_rel_pos_table_list" / l).tensor("weight", {line * line + 3, shape_.heads}));
  }
  if (decoder || !shape_.pictures) return;
  side.image_positions = (w / "embed_image_positions").tensor("weight", {shape_.image_buckets * shape_.image_buckets + 1, width});
  side.image_position_norm = norm(w / "image_pos_ln", width);
}

Ofa::Ofa(const OfaShape& shape, const nn::Weights& w) : shape_(shape) {
  const std::int64_t width = shape_.width;
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

  const auto list = [&](Side& side, const std::string& name) {
    sites_.tensors.push_back({name + ".embed_tokens.weight", &side.embedding});
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
           .modality = Modality::text,
           .width = width,
           .layers = shape_.encoder_layers + shape_.decoder_layers,
           .heads = shape_.heads,
           .max_length = shape_.encoder_positions - 2};
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
  at::Tensor x = (*encoder_.embedding_norm)(nn::lookup(encoder_.embedding, source.words).view({-1, width}) + types_.select(0, 0))
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
    if (rows > shape_.image_buckets || columns > shape_.image_buckets)
      throw Error({.what = "the picture has more patches than the model knows places",
                   .where = "pixel_values",
                   .expected = "at most " + std::to_string(16 * shape_.image_buckets) + " pixels a side"});
    const at::Tensor patches = features.flatten(2).transpose(1, 2).reshape({-1, features.size(1)});
    const at::Tensor embedded = (*patch_norm_)((*image_projection_)(patches, context) + types_.select(0, 1));
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

at::Tensor Ofa::decode(const at::Tensor& words, const OfaEncoded& encoded, const nn::Context& context) {
  const std::int64_t batch = words.size(0), length = words.size(1);
  at::Tensor x = (*decoder_.embedding_norm)(nn::lookup(decoder_.embedding, words).view({-1, shape_.width}));
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
  return nn::frozen_matrix((*decoder_.norm)(x), decoder_.embedding).view({batch, length, -1});
}

ModelOutputs Ofa::forward(const ModelInputs& inputs, const nn::Context& context) {
  const std::int64_t batch = inputs.text_layout.batch();
  const OfaEncoded encoded = encode({.words = inputs.input_ids.view({batch, -1}), .pictures = {}, .picture_there = {}}, context);
  return {.last_hidden_state = encoded.rows, .layout = encoded.layout, .pooler_output = {}, .embeds = {}};
}

TensorMap Ofa::forward_named(const TensorMap& inputs, const nn::Context& context) {
  const auto get = [&](const std::string& name) {
    const auto found = inputs.find(name);
    return found == inputs.end() ? at::Tensor() : found->second;
  };
  const at::Tensor ids = get("input_ids");
  if (!ids.defined()) throw Error({.what = "input is missing", .where = "input_ids"});
  const OfaEncoded encoded = encode({.words = ids, .pictures = get("patch_images"), .picture_there = get("patch_masks")}, context);
  TensorMap result{{"encoder_last_hidden_state", encoded.rows.view({ids.size(0), -1, shape_.width})}};
  if (const at::Tensor words = get("decoder_input_ids"); words.defined()) result["logits"] = decode(words, encoded, context);
  return result;
}

std::int64_t Ofa::macs(std::int64_t tokens, bool) const {
  return encoder_macs(shape_.encoder_layers, shape_.width, shape_.encoder_inner, tokens, false);
}

}  // namespace mmtune::backbones
