// BERT encoders (model_type "bert", MiniLM included) and RoBERTa's (model_type "roberta", "xlm-roberta"): post-norm blocks, absolute
// positions. Names as in transformers' BertModel and RobertaModel. RoBERTa differs in what it numbers: its positions begin behind the id of
// the padding token and count only tokens that are not padding, which itself has the position of that id.

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "backbones/named_inputs.h"
#include "backbones/post_norm_block.h"
#include "backbones/registry.h"
#include "backbones/stepwise.h"
#include "core/error.h"
#include "nn/squared_gradients.h"

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

constexpr PostNormNames block_names{.attention = "attention.self",
                                    .attention_output = "attention.output.dense",
                                    .attention_site = "attention.output",
                                    .attention_norm = "attention.output.LayerNorm",
                                    .up = "intermediate.dense",
                                    .down = "output.dense",
                                    .feed_forward_site = "output",
                                    .norm = "output.LayerNorm"};

class Bert final : public Backbone, public Stepwise {
 public:
  Bert(const Config& config, const nn::Weights& w, Family family)
      : shape_(read_shape(config, family)),
        words_((w / "embeddings").matrix("word_embeddings.weight", {shape_.vocabulary, shape_.width})),
        positions_((w / "embeddings").tensor("position_embeddings.weight", {shape_.positions, shape_.width})),
        types_((w / "embeddings").tensor("token_type_embeddings.weight", {shape_.types, shape_.width})),
        norm_(w / "embeddings" / "LayerNorm", shape_.width, shape_.epsilon) {
    const PostNormShape block{
        .width = shape_.width, .heads = shape_.heads, .inner = shape_.inner, .epsilon = shape_.epsilon, .activation = shape_.activation};
    for (std::int64_t layer = 0; layer < shape_.layers; ++layer)
      blocks_.push_back(
          std::make_unique<PostNormBlock>(block, block_names, w / "encoder" / "layer" / layer, layer, layer + 1 == shape_.layers));
    if (w.has("pooler.dense.weight"))
      pooler_ = std::make_unique<nn::Linear>(w / "pooler" / "dense", shape_.width, shape_.width, shape_.layers);
    report_ = w.finish();
    word_site_ = {.name = "embeddings.word_embeddings", .width = shape_.width};
    sites_.words = &word_site_;
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
    nn::Tokens tokens = enter(inputs, context);
    run_blocks(blocks_, tokens, context.read == nn::ReadRows::first, context);
    return leave(tokens, context);
  }

  nn::Tokens enter(const ModelInputs& inputs, const nn::Context& context) const override { return embed(inputs, context); }
  void step(std::int64_t block, nn::Tokens& tokens, StepRows wanted, const nn::Context& context) const override {
    blocks_.at(static_cast<std::size_t>(block))->step(tokens, wanted, context);
  }
  nn::KeyValueRows keys_values(std::int64_t block, const at::Tensor& rows, const nn::Context& context) const override {
    return blocks_.at(static_cast<std::size_t>(block))->keys_values(rows, context);
  }
  ModelOutputs leave(const nn::Tokens& tokens, const nn::Context& context) const override {
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
  nn::Tokens embed(const ModelInputs& inputs, const nn::Context& context) const {
    at::Tensor words = inputs.inputs_embeds.defined() ? inputs.inputs_embeds : nn::lookup(words_, inputs.input_ids);
    at::Tensor types = inputs.token_type_ids.defined() ? at::embedding(types_, inputs.token_type_ids) : types_.select(0, 0);
    nn::Tokens tokens{std::move(words), inputs.text_layout};
    if (word_site_.prompts.defined()) {
      if (inputs.position_ids.defined())
        throw Error({.what = "positions cannot be given where a prompt stands in front of the text", .where = "position_ids"});
      if (inputs.token_type_ids.defined()) {
        nn::Tokens wider{types, inputs.text_layout};
        wider.insert_prompts(types_.select(0, 0).expand({word_site_.prompts.size(0), shape_.width}), 0);
        types = wider.rows;
      }
      tokens.insert_prompts(nn::dropout(nn::spread(word_site_.prompts, context), word_site_.dropout, context), 0);
      tokens.prompt_count = 0;  // rows like all others from here on
    }
    const at::Tensor positions = inputs.position_ids.defined() ? shifted(inputs.position_ids) : number(inputs, tokens.layout);
    // The order of these sums is transformers' own.
    tokens.rows = norm_(tokens.rows + types + at::embedding(positions_, nn::beside(positions, tokens.rows)));
    return tokens;
  }

  void refuse_too_long(std::int64_t longest, std::int64_t places) const {
    if (longest <= places) return;
    throw Error({.what = "a text and what the expert puts in front of it are longer than the position table",
                 .where = "input_ids",
                 .expected = "at most " + std::to_string(places) + " tokens",
                 .got = std::to_string(longest),
                 .hint = "cut texts to fit with backbone.max_length"});
  }

  at::Tensor shifted(const at::Tensor& positions) const {
    if (word_site_.first_place == 0) return positions;
    refuse_too_long(positions.max().item<std::int64_t>() + 1, shape_.positions - word_site_.first_place);
    return positions + word_site_.first_place;
  }

  /// The positions [N] of rows that come without.
  at::Tensor number(const ModelInputs& inputs, const nn::Layout& layout) const {
    const std::int64_t first = shape_.first_position + word_site_.first_place;
    const std::int64_t longest = info_.max_length - word_site_.first_place;
    refuse_too_long(*std::max_element(layout.lengths().begin(), layout.lengths().end()), longest);
    at::Tensor positions = nn::positions_within(layout, first, longest);
    // As in transformers, which has no ids to look at where a prompt stands in front.
    if (shape_.padding < 0 || !inputs.input_ids.defined() || word_site_.prompts.defined()) return positions;
    const at::Tensor ids = inputs.input_ids.to(at::kCPU).contiguous();
    const auto* id = ids.const_data_ptr<std::int64_t>();
    auto* out = positions.data_ptr<std::int64_t>();
    for (const std::int64_t length : layout.lengths()) {
      std::int64_t next = first;
      for (std::int64_t i = 0; i < length; ++i, ++id) *out++ = *id == shape_.padding ? shape_.padding : next++;
    }
    return positions;
  }

  Shape shape_;
  nn::WordSite word_site_;
  at::Tensor words_, positions_, types_;
  nn::LayerNorm norm_;
  std::vector<std::unique_ptr<PostNormBlock>> blocks_;
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
