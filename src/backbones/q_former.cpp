#include "backbones/q_former.h"

#include <ATen/ATen.h>

#include "core/error.h"

namespace mmtune::backbones {

QFormerShape read_q_former_shape(const Config& config, bool text) {
  QFormerShape shape{.width = config.integer("hidden_size", 768),
                     .heads = config.integer("num_attention_heads", 12),
                     .inner = config.integer("intermediate_size", 3072),
                     .layers = config.integer("num_hidden_layers", 12),
                     .source_width = config.integer("encoder_hidden_size", 1408),
                     .cross_every = config.integer("cross_attention_frequency", 2),
                     .text = text,
                     .vocabulary = config.integer("vocab_size", 30522),
                     .positions = config.integer("max_position_embeddings", 512),
                     .epsilon = config.number("layer_norm_eps", 1e-12),
                     .activation = nn::activation_named(config.text("hidden_act", "gelu"), config.where())};
  config.require("position_embedding_type", "absolute");
  if (shape.width % shape.heads != 0)
    throw Error({.what = "hidden_size is not a multiple of num_attention_heads", .where = config.where()});
  return shape;
}

QFormerLayer::FeedForward::FeedForward(const nn::Weights& up_scope, const nn::Weights& out, const QFormerShape& shape, std::int64_t layer)
    : up(up_scope / "dense", shape.width, shape.inner, layer),
      down(out / "dense", shape.inner, shape.width, layer),
      norm(out / "LayerNorm", shape.width, shape.epsilon) {}

at::Tensor QFormerLayer::FeedForward::operator()(const at::Tensor& x, nn::Activation activation, const nn::Context& context) const {
  return norm(down(nn::activate(up(x, context), activation), context) + x);
}

QFormerLayer::QFormerLayer(const nn::Weights& w, const QFormerShape& shape, std::int64_t layer)
    : shape_(shape),
      attention_(w / "attention" / "attention", shape.width, shape.heads, layer),
      output_(w / "attention" / "output" / "dense", shape.width, shape.width, layer),
      norm_(w / "attention" / "output" / "LayerNorm", shape.width, shape.epsilon),
      query_feed_forward_(w / "intermediate_query", w / "output_query", shape, layer) {
  if (layer % shape.cross_every == 0) {
    const nn::Weights cross = w / "crossattention";
    cross_query_ = std::make_unique<nn::Linear>(cross / "attention" / "query", shape.width, shape.width, layer);
    cross_key_ = std::make_unique<nn::Linear>(cross / "attention" / "key", shape.source_width, shape.width, layer);
    cross_value_ = std::make_unique<nn::Linear>(cross / "attention" / "value", shape.source_width, shape.width, layer);
    cross_output_ = std::make_unique<nn::Linear>(cross / "output" / "dense", shape.width, shape.width, layer);
    cross_norm_ = std::make_unique<nn::LayerNorm>(cross / "output" / "LayerNorm", shape.width, shape.epsilon);
  }
  if (shape.text) text_feed_forward_ = std::make_unique<FeedForward>(w / "intermediate", w / "output", shape, layer);
}

QFormerLayer::Rows QFormerLayer::operator()(const Rows& rows, std::int64_t batch, const at::Tensor& mask, const at::Tensor& source,
                                            bool text_wanted, const nn::Context& context) const {
  const std::int64_t width = shape_.width;
  const bool text = rows.text.defined();
  const auto whole = [&](const at::Tensor& x) { return x.view({batch, -1, width}); };
  const at::Tensor all = text ? at::cat({whole(rows.queries), whole(rows.text)}, 1).view({-1, width}) : rows.queries;
  const std::int64_t queries = rows.queries.size(0) / batch, length = all.size(0) / batch;
  const nn::Layout layout = nn::Layout::uniform(batch, length, mask), query_layout = nn::Layout::uniform(batch, queries);
  const bool both = text && text_wanted;
  const at::Tensor& asking = both ? all : rows.queries;
  const at::Tensor attended = attention_(asking, all, both ? layout : query_layout, layout, context);
  const at::Tensor x = norm_(output_(attended, context) + asking);
  Rows result{.queries = x, .text = {}};
  if (both) {
    result.queries = whole(x).narrow(1, 0, queries).reshape({-1, width});
    result.text = (*text_feed_forward_)(whole(x).narrow(1, queries, length - queries).reshape({-1, width}), shape_.activation, context);
  }
  if (cross_query_) {
    const nn::Linear* const maps[] = {cross_key_.get(), cross_value_.get()};
    const std::vector<at::Tensor> made = nn::linear_group(source, maps, context);
    const at::Tensor read = nn::attention((*cross_query_)(result.queries, context), made[0], made[1], shape_.heads, query_layout,
                                          nn::Layout::uniform(batch, source.size(0) / batch));
    result.queries = (*cross_norm_)((*cross_output_)(read, context) + result.queries);
  }
  result.queries = query_feed_forward_(result.queries, shape_.activation, context);
  return result;
}

void QFormerLayer::list(nn::SiteTable& table) {
  // No site of keys and values: rows that experts put in front belong to the language model.
  nn::SiteTable own;
  attention_.list(own);
  table.weights.insert(table.weights.end(), own.weights.begin(), own.weights.end());
  table.tensors.insert(table.tensors.end(), own.tensors.begin(), own.tensors.end());
  output_.list(table);
  norm_.list(table);
  if (cross_query_) {
    for (nn::Linear* map : {cross_query_.get(), cross_key_.get(), cross_value_.get(), cross_output_.get()}) map->list(table);
    cross_norm_->list(table);
  }
  for (FeedForward* part : {&query_feed_forward_, text_feed_forward_.get()}) {
    if (part == nullptr) continue;
    part->up.list(table);
    part->down.list(table);
    part->norm.list(table);
  }
}

QFormer::QFormer(const nn::Weights& w, const QFormerShape& shape)
    : shape_(shape), path_(w.path()), norm_(w / "embeddings" / "layernorm", shape.width, shape.epsilon) {
  if (shape.text) {
    words_ = (w / "embeddings").matrix("word_embeddings.weight", {shape.vocabulary, shape.width});
    positions_ = (w / "embeddings").tensor("position_embeddings.weight", {shape.positions, shape.width});
  }
  for (std::int64_t layer = 0; layer < shape.layers; ++layer)
    layers_.push_back(std::make_unique<QFormerLayer>(w / "encoder" / "layer" / layer, shape, layer));
}

at::Tensor QFormer::operator()(const at::Tensor& queries, const at::Tensor& source, std::int64_t batch, const QFormerText* text,
                               bool with_text, const nn::Context& context) const {
  const std::int64_t width = shape_.width, count = queries.size(1);
  MMTUNE_ASSERT((text != nullptr) == shape_.text);
  QFormerLayer::Rows rows{.queries = norm_(queries).expand({batch, count, width}).reshape({-1, width}), .text = {}};
  at::Tensor mask;
  if (text != nullptr) {
    const std::int64_t length = text->ids.size(1);
    if (length > shape_.positions)
      throw Error({.what = "an instruction is longer than the Q-Former's table of positions",
                   .where = "qformer_input_ids",
                   .expected = "at most " + std::to_string(shape_.positions) + " tokens",
                   .got = std::to_string(length)});
    const at::Tensor words = nn::lookup(words_, nn::beside(text->ids, words_)) + positions_.narrow(0, 0, length);
    rows.text = norm_(words).expand({batch, length, width}).reshape({-1, width});
    if (text->mask.defined()) {
      const at::Tensor there = nn::beside(text->mask, words).expand({batch, length});
      mask = at::cat({at::ones({batch, count}, there.options()), there}, 1);
    }
  }
  for (const auto& layer : layers_) {
    const bool text_wanted = with_text || layer != layers_.back();
    rows = (*layer)(rows, batch, mask, source, text_wanted, context);
  }
  const at::Tensor made = rows.queries.view({batch, count, width});
  return with_text && rows.text.defined() ? at::cat({made, rows.text.view({batch, -1, width})}, 1) : made;
}

void QFormer::list(nn::SiteTable& table) {
  if (shape_.text) {
    table.tensors.push_back({path_ + ".embeddings.word_embeddings.weight", &words_});
    table.tensors.push_back({path_ + ".embeddings.position_embeddings.weight", &positions_});
  }
  norm_.list(table);
  for (auto& layer : layers_) layer->list(table);
}

std::int64_t QFormer::macs(std::int64_t queries, std::int64_t words, std::int64_t source) const {
  const std::int64_t rows = queries + words, width = shape_.width;
  std::int64_t sum = 0;
  for (const auto& layer : layers_) {
    sum += 4 * rows * width * width + 2 * rows * rows * width + 2 * rows * width * shape_.inner;
    if (layer->crosses()) sum += 2 * queries * width * width + 2 * source * shape_.source_width * width + 2 * queries * source * width;
  }
  return sum;
}

}  // namespace mmtune::backbones
