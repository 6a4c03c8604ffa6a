// Vision transformers (model_type "vit"): pre-norm blocks, class token, learned positions. Names as in transformers' ViTModel.

#include <ATen/ATen.h>

#include "backbones/named_inputs.h"
#include "backbones/patches.h"
#include "backbones/pre_norm_block.h"
#include "backbones/registry.h"
#include "backbones/stepwise.h"
#include "core/error.h"

namespace mmtune::backbones {

namespace {

struct Shape {
  std::int64_t width, heads, inner, layers, channels, height, image_width, patch_height, patch_width;
  double epsilon;
  bool qkv_bias;
  nn::Activation activation;

  std::int64_t patches() const { return (height / patch_height) * (image_width / patch_width); }
  std::int64_t patch_size() const { return channels * patch_height * patch_width; }
};

Shape read_shape(const Config& config) {
  const auto [height, width] = config.size("image_size");
  const auto [patch_height, patch_width] = config.size("patch_size");
  Shape shape{.width = config.integer("hidden_size"),
              .heads = config.integer("num_attention_heads"),
              .inner = config.integer("intermediate_size"),
              .layers = config.integer("num_hidden_layers"),
              .channels = config.integer("num_channels", 3),
              .height = height,
              .image_width = width,
              .patch_height = patch_height,
              .patch_width = patch_width,
              .epsilon = config.number("layer_norm_eps", 1e-12),
              .qkv_bias = config.flag("qkv_bias", true),
              .activation = nn::activation_named(config.text("hidden_act", "gelu"), config.where())};
  if (shape.width % shape.heads != 0)
    throw Error({.what = "hidden_size is not a multiple of num_attention_heads", .where = config.where()});
  if (shape.height < shape.patch_height || shape.image_width < shape.patch_width)
    throw Error({.what = "patch_size is larger than image_size", .where = config.where()});
  return shape;
}

class Vit final : public Backbone, public Stepwise {
 public:
  Vit(const Config& config, const nn::Weights& w)
      : shape_(read_shape(config)),
        class_token_((w / "embeddings").tensor("cls_token", {1, 1, shape_.width})),
        positions_((w / "embeddings").tensor("position_embeddings", {1, shape_.patches() + 1, shape_.width})),
        projection_((w / "embeddings" / "patch_embeddings" / "projection")
                        .tensor("weight", {shape_.width, shape_.channels, shape_.patch_height, shape_.patch_width})),
        projection_bias_((w / "embeddings" / "patch_embeddings" / "projection").tensor("bias", {shape_.width}, nn::Init::zeros)),
        norm_(w / "layernorm", shape_.width, shape_.epsilon) {
    const PreNormShape block{.width = shape_.width,
                             .heads = shape_.heads,
                             .inner = shape_.inner,
                             .epsilon = shape_.epsilon,
                             .activation = shape_.activation,
                             .qkv_bias = shape_.qkv_bias};
    for (std::int64_t layer = 0; layer < shape_.layers; ++layer)
      blocks_.push_back(
          std::make_unique<PreNormBlock>(block, vit_names, w / "encoder" / "layer" / layer, layer, layer + 1 == shape_.layers));
    const std::int64_t pooled = config.integer("pooler_output_size", shape_.width);
    if (w.has("pooler.dense.weight")) {
      pooler_ = std::make_unique<nn::Linear>(w / "pooler" / "dense", shape_.width, pooled, shape_.layers);
      pooler_activation_ = nn::activation_named(config.text("pooler_act", "tanh"), config.where());
    }
    report_ = w.finish();
    sites_.inputs = {&input_};
    sites_.tensors = {{"embeddings.cls_token", &class_token_},
                      {"embeddings.position_embeddings", &positions_},
                      {"embeddings.patch_embeddings.projection.weight", &projection_},
                      {"embeddings.patch_embeddings.projection.bias", &projection_bias_}};
    for (auto& block : blocks_) block->list(sites_);
    norm_.list(sites_);
    if (pooler_) pooler_->list(sites_);
    info_ = {.architecture = "vit",
             .modality = Modality::image,
             .width = shape_.width,
             .layers = shape_.layers,
             .heads = shape_.heads,
             .has_pooler = pooler_ != nullptr,
             .max_length = shape_.patches() + 1,
             .image_height = shape_.height,
             .image_width = shape_.image_width,
             .image_channels = shape_.channels};
  }

  ModelOutputs forward(const ModelInputs& inputs, const nn::Context& context) override {
    nn::Tokens tokens = enter(inputs, context);
    const at::Tensor class_tokens = context.read == nn::ReadRows::first ? at::zeros({tokens.layout.batch()}, at::kLong) : at::Tensor();
    run_blocks(blocks_, tokens, class_tokens, context);
    return leave(tokens, context);
  }

  nn::Tokens enter(const ModelInputs& inputs, const nn::Context& context) const override { return embed(inputs.pixel_values, context); }
  void step(std::int64_t block, nn::Tokens& tokens, StepRows wanted, const nn::Context& context) const override {
    blocks_.at(static_cast<std::size_t>(block))->step(tokens, wanted, context);
  }
  nn::KeyValueRows keys_values(std::int64_t block, const at::Tensor& rows, const nn::Context& context) const override {
    return blocks_.at(static_cast<std::size_t>(block))->keys_values(rows, context);
  }
  ModelOutputs leave(const nn::Tokens& tokens, const nn::Context& context) const override {
    ModelOutputs outputs{.last_hidden_state = norm_(tokens.rows), .layout = tokens.layout};
    if (pooler_)
      outputs.pooler_output =
          nn::activate((*pooler_)(nn::first_rows(outputs.last_hidden_state, tokens.layout), context), pooler_activation_);
    return outputs;
  }

  TensorMap forward_named(const TensorMap& inputs, const nn::Context& context) override {
    refuse_unknown_inputs(inputs, {"pixel_values"});
    ModelInputs batch;
    batch.pixel_values = picture_input(inputs, shape_.channels, shape_.height, shape_.image_width);
    const ModelOutputs outputs = forward(batch, context);
    TensorMap result{{"last_hidden_state", outputs.last_hidden_state.view({outputs.layout.batch(), -1, shape_.width})}};
    if (outputs.pooler_output.defined()) result["pooler_output"] = outputs.pooler_output;
    return result;
  }

  std::int64_t macs(std::int64_t tokens, bool read_first) const override {
    const std::int64_t pooled = pooler_ ? pooler_->site().in * pooler_->site().out : 0;
    return shape_.patches() * shape_.patch_size() * shape_.width +
           encoder_macs(shape_.layers, shape_.width, shape_.inner, tokens, read_first) + pooled;
  }

 private:
  nn::Tokens embed(at::Tensor pixels, const nn::Context& context) const {
    if (input_.hook) pixels = input_.hook->apply(pixels, context);
    const std::int64_t batch = pixels.size(0);
    const at::Tensor patches = patches_of(pixels, shape_.patch_height, shape_.patch_width);
    const at::Tensor embedded =
        nn::frozen_matrix(patches, projection_.view({shape_.width, -1}), projection_bias_, context.matmul_precision);
    const at::Tensor x = at::cat({class_token_.expand({batch, 1, shape_.width}), embedded}, 1) + positions_;
    return {x.view({-1, shape_.width}), nn::Layout::uniform(batch, shape_.patches() + 1)};
  }

  Shape shape_;
  nn::InputSite input_{.name = "pixel_values"};
  at::Tensor class_token_, positions_, projection_, projection_bias_;
  std::vector<std::unique_ptr<PreNormBlock>> blocks_;
  nn::LayerNorm norm_;
  std::unique_ptr<nn::Linear> pooler_;
  nn::Activation pooler_activation_ = nn::Activation::tanh;
};

std::unique_ptr<Backbone> make(const Config& config, const nn::Weights& weights) {
  return std::make_unique<Vit>(config, weights);
}

}  // namespace

Architecture vit_architecture() {
  return {"vit", {"", "vit."}, "embeddings.cls_token", make};
}

}  // namespace mmtune::backbones
