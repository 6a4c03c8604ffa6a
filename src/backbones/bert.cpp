// BERT encoders (model_type "bert", MiniLM included) and RoBERTa's (model_type "roberta", "xlm-roberta"): post-norm blocks, absolute
// positions. Names as in transformers' BertModel and RobertaModel. RoBERTa differs in what it numbers: its positions begin behind the id of
// the padding token and count only tokens that are not padding, which itself has the position of that id.

#include <ATen/ATen.h>

#include <cmath>
#include <functional>

#include "backbones/named_inputs.h"
#include "backbones/registry.h"
#include "core/error.h"
#include "nn/recompute.h"
#include "nn/self_attention.h"

namespace mmtune::backbones {

namespace {

enum class Family { bert, roberta };

struct Shape {
  std::int64_t width, heads, inner, layers, vocabulary, positions, types;
  std::int64_t padding;         ///< RoBERTa: the id of the padding token; −1 for BERT
  std::int64_t first_position;  ///< of a sequence's first token
  double epsilon;
  nn::Activation activation;
};

std::int64_t read_padding(const Config& config, std::int64_t vocabulary) {
  const double id = config.number("pad_token_id", 1);
  if (id < 0 || id >= static_cast<double>(vocabulary) || id != std::floor(id))
    throw Error({.what = "pad_token_id is no token", .where = config.where(), .expected = "an integer below vocab_size"});
  return static_cast<std::int64_t>(id);
}

Shape read_shape(const Config& config, Family family) {
  Shape shape{.width = config.integer("hidden_size"),
              .heads = config.integer("num_attention_heads"),
              .inner = config.integer("intermediate_size"),
              .layers = config.integer("num_hidden_layers"),
              .vocabulary = config.integer("vocab_size"),
              .positions = config.integer("max_position_embeddings"),
              .types = config.integer("type_vocab_size", 2),
              .padding = -1,
              .first_position = 0,
              .epsilon = config.number("layer_norm_eps", 1e-12),
              .activation = nn::activation_named(config.text("hidden_act", "gelu"), config.where())};
  config.require("position_embedding_type", "absolute");
  config.require("is_decoder", false);
  config.require("add_cross_attention", false);
  if (shape.width % shape.heads != 0)
    throw Error({.what = "hidden_size is not a multiple of num_attention_heads", .where = config.where()});
  if (family == Family::roberta) {
    shape.padding = read_padding(config, shape.vocabulary);
    shape.first_position = shape.padding + 1;
    if (shape.positions <= shape.first_position)
      throw Error({.what = "max_position_embeddings leaves no position behind pad_token_id", .where = config.where()});
  }
  return shape;
}

class Block {
 public:
  Block(const Shape& shape, const nn::Weights& w, std::int64_t layer)
      : shape_(shape),
        self_attention_(w / "attention" / "self", shape.width, shape.heads, layer),
        attention_output_(w / "attention" / "output" / "dense", shape.width, shape.width, layer),
        attention_norm_(w / "attention" / "output" / "LayerNorm", shape.width, shape.epsilon),
        intermediate_(w / "intermediate" / "dense", shape.width, shape.inner, layer),
        output_(w / "output" / "dense", shape.inner, shape.width, layer),
        norm_(w / "output" / "LayerNorm", shape.width, shape.epsilon) {
    using Role = nn::SublayerSite::Role;
    attention_site_ = {.name = (w / "attention" / "output").path(), .role = Role::self_attention, .width = shape.width, .layer = layer};
    feed_forward_site_ = {.name = (w / "output").path(), .role = Role::feed_forward, .width = shape.width, .layer = layer};
    sequence_ = {.name = w.path(), .width = shape.width, .layer = layer, .prompt_position = 1, .last = layer + 1 == shape.layers};
  }

  void operator()(nn::Tokens& tokens, const nn::Context& context) const {
    if (sequence_.hook) sequence_.hook->before_block(tokens, context);
    const bool first_only = sequence_.last && context.read == nn::ReadRows::first;
    const at::Tensor x = tokens.rows;
    const nn::Layout key_layout = tokens.layout;
    if (first_only) {
      tokens = {nn::first_rows(x, key_layout), nn::Layout::uniform(key_layout.batch(), 1)};
    } else if (tokens.prompts_end) {
      tokens.remove_prompts();
    }
    tokens.rows = feed_forward(attend(tokens.rows, x, tokens.layout, key_layout, context), tokens.layout, context);
    if (sequence_.hook && !first_only) sequence_.hook->after_block(tokens, context);
  }

  void list(nn::SiteTable& table) {
    table.sequences.push_back(&sequence_);
    self_attention_.list(table);
    attention_output_.list(table);
    attention_norm_.list(table);
    intermediate_.list(table);
    output_.list(table);
    norm_.list(table);
    table.sublayers.push_back(&attention_site_);
    table.sublayers.push_back(&feed_forward_site_);
  }

 private:
  /// `x` [Nq, D]: the rows whose output is wanted; `all` [N, D]: the rows they attend to.
  at::Tensor attend(const at::Tensor& x, const at::Tensor& all, const nn::Layout& query_layout, const nn::Layout& key_layout,
                    const nn::Context& context) const {
    at::Tensor out = self_attention_(x, all, query_layout, key_layout, context);
    out = attention_site_(attention_output_(out, context), x, query_layout, context);
    return attention_norm_(out + x);
  }

  at::Tensor feed_forward(const at::Tensor& x, const nn::Layout& layout, const nn::Context& context) const {
    const at::Tensor inner = nn::activate(intermediate_(x, context), shape_.activation);
    return norm_(feed_forward_site_(output_(inner, context), x, layout, context) + x);
  }

  Shape shape_;
  nn::SelfAttention self_attention_;
  nn::Linear attention_output_;
  nn::LayerNorm attention_norm_;
  nn::Linear intermediate_, output_;
  nn::LayerNorm norm_;
  nn::SublayerSite attention_site_, feed_forward_site_;
  nn::SequenceSite sequence_;
};

class Bert final : public Backbone {
 public:
  Bert(const Config& config, const nn::Weights& w, Family family)
      : shape_(read_shape(config, family)),
        words_((w / "embeddings").matrix("word_embeddings.weight", {shape_.vocabulary, shape_.width})),
        positions_((w / "embeddings").tensor("position_embeddings.weight", {shape_.positions, shape_.width})),
        types_((w / "embeddings").tensor("token_type_embeddings.weight", {shape_.types, shape_.width})),
        norm_(w / "embeddings" / "LayerNorm", shape_.width, shape_.epsilon) {
    for (std::int64_t layer = 0; layer < shape_.layers; ++layer)
      blocks_.push_back(std::make_unique<Block>(shape_, w / "encoder" / "layer" / layer, layer));
    if (w.has("pooler.dense.weight"))
      pooler_ = std::make_unique<nn::Linear>(w / "pooler" / "dense", shape_.width, shape_.width, shape_.layers);
    report_ = w.finish();
    sites_.tensors = {{"embeddings.word_embeddings.weight", &words_},
                      {"embeddings.position_embeddings.weight", &positions_},
                      {"embeddings.token_type_embeddings.weight", &types_}};
    norm_.list(sites_);
    for (auto& block : blocks_) block->list(sites_);
    if (pooler_) pooler_->list(sites_);
    info_ = {.architecture = config.text("model_type", "bert"),
             .modality = Modality::text,
             .width = shape_.width,
             .layers = shape_.layers,
             .heads = shape_.heads,
             .has_pooler = pooler_ != nullptr,
             .max_length = shape_.positions - shape_.first_position};
  }

  ModelOutputs forward(const ModelInputs& inputs, const nn::Context& context) override {
    nn::Tokens tokens{embed(inputs), inputs.text_layout};
    for (const auto& block : blocks_) nn::run_block(tokens, context, std::cref(*block));
    ModelOutputs outputs{.last_hidden_state = tokens.rows, .layout = tokens.layout};
    if (pooler_) outputs.pooler_output = at::tanh((*pooler_)(nn::first_rows(tokens.rows, tokens.layout), context));
    return outputs;
  }

  TensorMap forward_named(const TensorMap& inputs, const nn::Context& context) override {
    const ModelInputs rows = text_inputs(inputs, shape_.vocabulary, shape_.types, shape_.positions, shape_.width, info_.max_length);
    const ModelOutputs outputs = forward(rows, context);
    TensorMap result{{"last_hidden_state", outputs.last_hidden_state.view({outputs.layout.batch(), -1, shape_.width})}};
    if (outputs.pooler_output.defined()) result["pooler_output"] = outputs.pooler_output;
    return result;
  }

  std::int64_t macs(std::int64_t tokens, bool read_first) const override {
    return encoder_macs(shape_.layers, shape_.width, shape_.inner, tokens, read_first) + (pooler_ ? shape_.width * shape_.width : 0);
  }

 private:
  at::Tensor embed(const ModelInputs& inputs) const {
    at::Tensor x = inputs.inputs_embeds.defined() ? inputs.inputs_embeds : nn::lookup(words_, inputs.input_ids);
    const at::Tensor positions = inputs.position_ids.defined() ? inputs.position_ids : number(inputs);
    // The order of these sums is transformers' own.
    x = x + (inputs.token_type_ids.defined() ? at::embedding(types_, inputs.token_type_ids) : types_.select(0, 0));
    return norm_(x + at::embedding(positions_, nn::beside(positions, x)));
  }

  /// The positions [N] of rows that come without.
  at::Tensor number(const ModelInputs& inputs) const {
    const nn::Layout& layout = inputs.text_layout;
    at::Tensor positions = nn::positions_within(layout, shape_.first_position, info_.max_length);
    if (shape_.padding < 0 || !inputs.input_ids.defined()) return positions;
    const at::Tensor ids = inputs.input_ids.to(at::kCPU).contiguous();
    const auto* id = ids.const_data_ptr<std::int64_t>();
    auto* out = positions.data_ptr<std::int64_t>();
    for (const std::int64_t length : layout.lengths()) {
      std::int64_t next = shape_.first_position;
      for (std::int64_t i = 0; i < length; ++i, ++id) *out++ = *id == shape_.padding ? shape_.padding : next++;
    }
    return positions;
  }

  Shape shape_;
  at::Tensor words_, positions_, types_;
  nn::LayerNorm norm_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::unique_ptr<nn::Linear> pooler_;
};

template <Family family>
std::unique_ptr<Backbone> make(const Config& config, const nn::Weights& weights) {
  return std::make_unique<Bert>(config, weights, family);
}

}  // namespace

Architecture bert_architecture() {
  return {"bert", {"", "bert."}, "embeddings.word_embeddings.weight", make<Family::bert>};
}

Architecture roberta_architecture() {
  return {"roberta", {"", "roberta."}, "embeddings.word_embeddings.weight", make<Family::roberta>};
}

Architecture xlm_roberta_architecture() {
  return {"xlm-roberta", {"", "roberta."}, "embeddings.word_embeddings.weight", make<Family::roberta>};
}

}  // namespace mmtune::backbones
