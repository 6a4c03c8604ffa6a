// LLaMA and what shares its graph (Vicuna; model_type "llama"; Touvron et al. 2023, arXiv 2302.13971): RMS norms, rotary positions, grouped
// queries, SwiGLU. Names as in transformers' LlamaModel.

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

#include "backbones/causal_lm.h"
#include "backbones/registry.h"
#include "core/error.h"
#include "nn/gated.h"
#include "nn/rms_norm.h"

namespace mmtune::backbones {

namespace {

struct Shape {
  LanguageAttentionShape attention;
  std::int64_t inner;
  double epsilon;
  bool mlp_bias;
  nn::Activation activation;
};

/// Published multimodal models leave out what is as in the first LLaMA.
Shape read_shape(const Config& config) {
  const std::int64_t width = config.integer("hidden_size", 4096), heads = config.integer("num_attention_heads", 32);
  Shape shape{.attention = {.width = width,
                            .heads = heads,
                            .key_heads = config.integer("num_key_value_heads", heads),
                            .head_width = config.integer("head_dim", width / heads)},
              .inner = config.integer("intermediate_size", 11008),
              .epsilon = config.number("rms_norm_eps", 1e-6),
              .mlp_bias = config.flag("mlp_bias", false),
              .activation = nn::activation_named(config.text("hidden_act", "silu"), config.where())};
  shape.attention.bias = shape.attention.output_bias = config.flag("attention_bias", false);
  if (!config.has("head_dim") && width % heads != 0)
    throw Error({.what = "hidden_size is not a multiple of num_attention_heads", .where = config.where()});
  if (heads % shape.attention.key_heads != 0)
    throw Error({.what = "num_attention_heads is not a multiple of num_key_value_heads", .where = config.where()});
  if (shape.attention.head_width % 2 != 0)
    throw Error({.what = "the width of a head is odd", .where = config.where(), .expected = "an even one, for rotary positions"});
  return shape;
}

/// The frequencies of rotary positions, by the checkpoint's way to reach beyond the length that it was trained on.
at::Tensor read_frequencies(const Config& config, std::int64_t head_width) {
  // transformers 5 puts all of it in one object; before, the base stood beside an optional object of the rest.
  const char* const key = config.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  double base = config.number("rope_theta", 10000.0);
  std::string type = "default";
  if (config.has(key)) {
    const Config section = config.section(key);
    base = section.number("rope_theta", base);
    type = section.text("rope_type", section.text("type", "default"));
  }
  at::Tensor frequencies = nn::rotary_frequencies(head_width, base);
  if (type == "default") return frequencies;
  const Config section = config.section(key);
  const double factor = section.number("factor", 1.0);
  if (type == "linear") return frequencies / factor;
  if (type != "llama3")
    throw Error({.what = "this kind of rotary positions is not supported",
                 .where = config.where() + ": " + key,
                 .expected = "default, linear or llama3",
                 .got = "\"" + printable(type) + "\""});
  // Long waves are stretched by the factor, short ones are kept, and those between are a mixture of both.
  const double low = section.number("low_freq_factor", 1.0), high = section.number("high_freq_factor", 4.0);
  const double length = section.number("original_max_position_embeddings", 8192.0);
  const at::Tensor turns = length * frequencies / (2 * std::numbers::pi);  // within the length of training
  const at::Tensor share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
  return frequencies / factor * (1 - share) + frequencies * share;
}

class LlamaBlock final : public LanguageBlock {
 public:
  LlamaBlock(const Shape& shape, const nn::Weights& w, std::int64_t layer)
      : activation_(shape.activation),
        norm_before_(w / "input_layernorm", shape.attention.width, shape.epsilon),
        attention_(w / "self_attn", shape.attention, {"q_proj", "k_proj", "v_proj", "o_proj"}, layer),
        norm_after_(w / "post_attention_layernorm", shape.attention.width, shape.epsilon),
        gate_(w / "mlp" / "gate_proj", shape.attention.width, shape.inner, layer, shape.mlp_bias),
        up_(w / "mlp" / "up_proj", shape.attention.width, shape.inner, layer, shape.mlp_bias),
        down_(w / "mlp" / "down_proj", shape.inner, shape.attention.width, layer, shape.mlp_bias) {
    using Role = nn::SublayerSite::Role;
    const std::int64_t width = shape.attention.width;
    attention_site_ = {.name = (w / "self_attn").path(), .role = Role::self_attention, .width = width, .layer = layer};
    feed_forward_site_ = {.name = (w / "mlp").path(), .role = Role::feed_forward, .width = width, .layer = layer};
  }

  void operator()(nn::Tokens& tokens, const LanguageAttention::Pass& pass, const nn::Context& context) const override {
    at::Tensor normed = norm_before_(tokens.rows);
    const at::Tensor attended = attention_(normed, tokens.layout, pass, context);
    if (pass.narrow != nullptr) {
      tokens.rows = tokens.rows.index_select(0, pass.narrow->rows);
      normed = normed.index_select(0, pass.narrow->rows);
      tokens.layout = pass.narrow->layout;
    }
    const at::Tensor x = tokens.rows + attention_site_(attended, normed, tokens.layout, context);
    const at::Tensor entering = norm_after_(x);
    const nn::Linear* const maps[] = {&gate_, &up_};
    const std::vector<at::Tensor> inner = nn::linear_group(entering, maps, context);
    const at::Tensor out = down_(nn::gated(inner[0], inner[1], activation_), context);
    tokens.rows = x + feed_forward_site_(out, entering, tokens.layout, context);
  }

  void list(nn::SiteTable& table) override {
    norm_before_.list(table);
    attention_.list(table);
    auto& project = table.keys_values.back()->project;
    project = [this, attention = std::move(project)](const at::Tensor& rows, const nn::Context& context) {
      return attention(norm_before_(rows), context);
    };
    norm_after_.list(table);
    for (nn::Linear* map : {&gate_, &up_, &down_}) map->list(table);
    table.sublayers.push_back(&attention_site_);
    table.sublayers.push_back(&feed_forward_site_);
  }

  std::int64_t macs(std::int64_t tokens) const override {
    return attention_.macs(tokens, tokens) + 3 * tokens * up_.site().in * up_.site().out;
  }

 private:
  nn::Activation activation_;
  nn::RmsNorm norm_before_;
  LanguageAttention attention_;
  nn::RmsNorm norm_after_;
  nn::Linear gate_, up_, down_;
  nn::SublayerSite attention_site_, feed_forward_site_;
};

class Llama final : public CausalLm {
 public:
  Llama(const Config& config, const nn::Weights& w, const nn::Weights& head)
      : shape_(read_shape(config)),
        frequencies_(read_frequencies(config, shape_.attention.head_width)),
        norm_(w / "norm", shape_.attention.width, shape_.epsilon) {
    vocabulary_ = config.integer("vocab_size", 32000);
    embedding_width_ = shape_.attention.width;
    positions_ = config.integer("max_position_embeddings", 2048);
    words_ = (w / "embed_tokens").matrix("weight", {vocabulary_, embedding_width_});
    const std::int64_t layers = config.integer("num_hidden_layers", 32);
    for (std::int64_t layer = 0; layer < layers; ++layer)
      blocks_.push_back(std::make_unique<LlamaBlock>(shape_, w / "layers" / layer, layer));
    info_ = {.architecture = "llama",
             .modality = Modality::text,
             .width = embedding_width_,
             .layers = layers,
             .heads = shape_.attention.heads,
             .has_class_token = false,
             .max_length = positions_};
    read_tokens(config, {.start = 1, .padding = -1, .end = 2});
    finish_construction(w, head, config.flag("tie_word_embeddings", false));
    norm_.list(sites_);
  }

 private:
  at::Tensor enter(const at::Tensor& embeds, const at::Tensor&, const nn::Context&) const override { return embeds; }
  at::Tensor leave(const at::Tensor& rows, const nn::Context&) const override { return norm_(rows); }
  nn::Rotation rotation(const at::Tensor& positions) const override {
    const nn::Rotation turns = nn::rotation_of(positions, frequencies_);
    return {nn::beside(turns.cosines, words_), nn::beside(turns.sines, words_)};
  }

  Shape shape_;
  at::Tensor frequencies_;
  nn::RmsNorm norm_;
};

}  // namespace

std::unique_ptr<CausalLm> make_llama(const Config& config, const nn::Weights& body, const nn::Weights& head) {
  return std::make_unique<Llama>(config, body, head);
}

Architecture llama_architecture() {
  return {"llama", {"model.", ""}, "embed_tokens.weight", [](const Config& config, const nn::Weights& w) -> std::unique_ptr<Backbone> {
            std::unique_ptr<CausalLm> model = make_llama(config, w, w.top() / "lm_head");
            model->finish(w);
            return model;
          }};
}

}  // namespace mmtune::backbones
