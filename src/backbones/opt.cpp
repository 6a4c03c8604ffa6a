// OPT (model_type "opt"; Zhang et al. 2022, arXiv 2205.01068): learned positions, LayerNorms before or behind the sublayers, embeddings
// that may be narrower than the blocks. Names as in transformers' OPTDecoder.

#include <ATen/ATen.h>

#include "backbones/causal_lm.h"
#include "backbones/registry.h"
#include "core/error.h"

namespace mmtune::backbones {

namespace {

/// Rows of the table of positions that no token has.
constexpr std::int64_t position_offset = 2;
constexpr double epsilon = 1e-5;

struct Shape {
  std::int64_t width, inner, heads;
  bool norm_before, bias;
  nn::Activation activation;
};

Shape read_shape(const Config& config) {
  Shape shape{.width = config.integer("hidden_size", 768),
              .inner = config.integer("ffn_dim", 3072),
              .heads = config.integer("num_attention_heads", 12),
              .norm_before = config.flag("do_layer_norm_before", true),
              .bias = config.flag("enable_bias", true),
              .activation = nn::activation_named(config.text("activation_function", "relu"), config.where())};
  config.require("layer_norm_elementwise_affine", true);
  if (shape.width % shape.heads != 0)
    throw Error({.what = "hidden_size is not a multiple of num_attention_heads", .where = config.where()});
  return shape;
}

class OptBlock final : public LanguageBlock {
 public:
  OptBlock(const Shape& shape, const nn::Weights& w, std::int64_t layer)
      : shape_(shape),
        attention_(w / "self_attn",
                   {.width = shape.width,
                    .heads = shape.heads,
                    .key_heads = shape.heads,
                    .head_width = shape.width / shape.heads,
                    .bias = shape.bias,
                    .output_bias = shape.bias},
                   {"q_proj", "k_proj", "v_proj", "out_proj"}, layer),
        attention_norm_(w / "self_attn_layer_norm", shape.width, epsilon),
        up_(w / "fc1", shape.width, shape.inner, layer, shape.bias),
        down_(w / "fc2", shape.inner, shape.width, layer, shape.bias),
        norm_(w / "final_layer_norm", shape.width, epsilon) {
    using Role = nn::SublayerSite::Role;
    const bool behind = !shape.norm_before;
    attention_site_ = {
        .name = (w / "self_attn").path(), .role = Role::self_attention, .width = shape.width, .layer = layer, .normed = behind};
    feed_forward_site_ = {.name = (w / "fc2").path(), .role = Role::feed_forward, .width = shape.width, .layer = layer, .normed = behind};
  }

  void operator()(nn::Tokens& tokens, const LanguageAttention::Pass& pass, const nn::Context& context) const override {
    at::Tensor input = shape_.norm_before ? attention_norm_(tokens.rows) : tokens.rows;
    const at::Tensor attended = attention_(input, tokens.layout, pass, context);
    if (pass.narrow != nullptr) {
      tokens.rows = tokens.rows.index_select(0, pass.narrow->rows);
      input = input.index_select(0, pass.narrow->rows);
      tokens.layout = pass.narrow->layout;
    }
    at::Tensor x = tokens.rows + attention_site_(attended, input, tokens.layout, context);
    if (!shape_.norm_before) x = attention_site_.behind_norm(attention_norm_(x), input, tokens.layout, context);
    const at::Tensor entering = shape_.norm_before ? norm_(x) : x;
    const at::Tensor out = down_(nn::activate(up_(entering, context), shape_.activation), context);
    x = x + feed_forward_site_(out, entering, tokens.layout, context);
    tokens.rows = shape_.norm_before ? x : feed_forward_site_.behind_norm(norm_(x), entering, tokens.layout, context);
  }

  void list(nn::SiteTable& table) override {
    attention_.list(table);
    if (shape_.norm_before) {
      auto& project = table.keys_values.back()->project;
      project = [this, attention = std::move(project)](const at::Tensor& rows, const nn::Context& context) {
        return attention(attention_norm_(rows), context);
      };
    }
    attention_norm_.list(table);
    up_.list(table);
    down_.list(table);
    norm_.list(table);
    table.sublayers.push_back(&attention_site_);
    table.sublayers.push_back(&feed_forward_site_);
  }

  std::int64_t macs(std::int64_t tokens) const override {
    return attention_.macs(tokens, tokens) + 2 * tokens * shape_.width * shape_.inner;
  }

 private:
  Shape shape_;
  LanguageAttention attention_;
  nn::LayerNorm attention_norm_;
  nn::Linear up_, down_;
  nn::LayerNorm norm_;
  nn::SublayerSite attention_site_, feed_forward_site_;
};

class Opt final : public CausalLm {
 public:
  Opt(const Config& config, const nn::Weights& w, const nn::Weights& head) : shape_(read_shape(config)) {
    vocabulary_ = config.integer("vocab_size", 50272);
    embedding_width_ = config.integer("word_embed_proj_dim", shape_.width);
    positions_ = config.integer("max_position_embeddings", 2048);
    words_ = (w / "embed_tokens").matrix("weight", {vocabulary_, embedding_width_});
    table_ = (w / "embed_positions").tensor("weight", {positions_ + position_offset, shape_.width});
    const std::int64_t layers = config.integer("num_hidden_layers", 12);
    if (embedding_width_ != shape_.width) {
      in_ = std::make_unique<nn::Linear>(w / "project_in", embedding_width_, shape_.width, 0, false);
      out_ = std::make_unique<nn::Linear>(w / "project_out", shape_.width, embedding_width_, layers, false);
    }
    if (shape_.norm_before && !config.flag("_remove_final_layer_norm", false))
      norm_ = std::make_unique<nn::LayerNorm>(w / "final_layer_norm", shape_.width, epsilon);
    for (std::int64_t layer = 0; layer < layers; ++layer)
      blocks_.push_back(std::make_unique<OptBlock>(shape_, w / "layers" / layer, layer));
    info_ = {.architecture = "opt",
             .modality = Modality::text,
             .width = shape_.width,
             .layers = layers,
             .heads = shape_.heads,
             .has_class_token = false,
             .max_length = positions_};
    sites_.tensors = {{(w / "embed_positions").path() + ".weight", &table_}};
    read_tokens(config, {.start = 2, .padding = 1, .end = 2});
    finish_construction(w, head, config.flag("tie_word_embeddings", true));
    if (in_) in_->list(sites_);
    if (out_) out_->list(sites_);
    if (norm_) norm_->list(sites_);
  }

 private:
  at::Tensor enter(const at::Tensor& embeds, const at::Tensor& positions, const nn::Context& context) const override {
    const std::int64_t longest = positions.max().item<std::int64_t>() + 1;
    if (longest > positions_)
      throw Error({.what = "a text is longer than the position table",
                   .where = "input_ids",
                   .expected = "at most " + std::to_string(positions_) + " tokens",
                   .got = std::to_string(longest)});
    const at::Tensor x = in_ ? (*in_)(embeds, context) : embeds;
    return x + at::embedding(table_, nn::beside(positions + position_offset, table_));
  }
  at::Tensor leave(const at::Tensor& rows, const nn::Context& context) const override {
    const at::Tensor normed = norm_ ? (*norm_)(rows) : rows;
    return out_ ? (*out_)(normed, context) : normed;
  }

  Shape shape_;
  at::Tensor table_;
  std::unique_ptr<nn::Linear> in_, out_;
  std::unique_ptr<nn::LayerNorm> norm_;
};

}  // namespace

std::unique_ptr<CausalLm> make_opt(const Config& config, const nn::Weights& body, const nn::Weights& head) {
  return std::make_unique<Opt>(config, body, head);
}

Architecture opt_architecture() {
  return {"opt",
          {"model.decoder.", "decoder.", ""},
          "embed_tokens.weight",
          [](const Config& config, const nn::Weights& w) -> std::unique_ptr<Backbone> {
            std::unique_ptr<CausalLm> model = make_opt(config, w, w.top() / "lm_head");
            model->finish(w);
            return model;
          }};
}

}  // namespace mmtune::backbones
