// Wav2Vec2 encoders (model_type "wav2vec2"): convolutions over the samples, a convolution that tells positions, and transformer blocks, in
// both published layouts: group norm in the convolutions and post-norm blocks (base), or layer norm and pre-norm blocks (large). Names as
// in transformers' Wav2Vec2Model. There is no SpecAugment: nothing is masked at random.

#include <ATen/ATen.h>

#include "backbones/named_inputs.h"
#include "backbones/post_norm_block.h"
#include "backbones/pre_norm_block.h"
#include "backbones/registry.h"
#include "backbones/stepwise.h"
#include "backbones/wav2vec2_front.h"
#include "core/error.h"

namespace mmtune::backbones {

namespace {

struct Shape {
  std::int64_t width, heads, inner, layers, position_kernel, position_groups;
  double epsilon;
  bool stable;  ///< pre-norm blocks
  nn::Activation activation, position_activation;
};

Shape read_shape(const Config& config) {
  Shape shape{.width = config.integer("hidden_size", 768),
              .heads = config.integer("num_attention_heads", 12),
              .inner = config.integer("intermediate_size", 3072),
              .layers = config.integer("num_hidden_layers", 12),
              .position_kernel = config.integer("num_conv_pos_embeddings", 128),
              .position_groups = config.integer("num_conv_pos_embedding_groups", 16),
              .epsilon = config.number("layer_norm_eps", 1e-5),
              .stable = config.flag("do_stable_layer_norm", false),
              .activation = nn::activation_named(config.text("hidden_act", "gelu"), config.where()),
              .position_activation = nn::activation_named(config.text("feat_extract_activation", "gelu"), config.where())};
  config.require("add_adapter", false);
  config.require("adapter_attn_dim", nullptr);
  if (shape.width % shape.heads != 0)
    throw Error({.what = "hidden_size is not a multiple of num_attention_heads", .where = config.where()});
  if (shape.width % shape.position_groups != 0)
    throw Error({.what = "hidden_size is not a multiple of num_conv_pos_embedding_groups", .where = config.where()});
  return shape;
}

constexpr PostNormNames post_norm_names{.attention = "attention",
                                        .attention_output = "attention.out_proj",
                                        .attention_site = "attention",
                                        .attention_norm = "layer_norm",
                                        .up = "feed_forward.intermediate_dense",
                                        .down = "feed_forward.output_dense",
                                        .feed_forward_site = "feed_forward",
                                        .norm = "final_layer_norm",
                                        .maps = nn::proj_names};
constexpr PreNormNames pre_norm_names{.norm_before = "layer_norm",
                                      .attention = "attention",
                                      .attention_output = "attention.out_proj",
                                      .attention_site = "attention",
                                      .norm_after = "final_layer_norm",
                                      .up = "feed_forward.intermediate_dense",
                                      .down = "feed_forward.output_dense",
                                      .feed_forward_site = "feed_forward",
                                      .maps = nn::proj_names};

/// The convolution over frames that stands for position embeddings. Its weight is kept as direction and length of every tap (weight norm).
class Positions {
 public:
  Positions(const Shape& shape, const nn::Weights& w) : shape_(shape), name_((w / "conv").path()) {
    const nn::Weights conv = w / "conv";
    // How torch names the two depends on its version; both are about.
    const bool newer = conv.has("parametrizations.weight.original0") || !conv.has("weight_g");
    length_name_ = newer ? "parametrizations.weight.original0" : "weight_g";
    direction_name_ = newer ? "parametrizations.weight.original1" : "weight_v";
    const std::int64_t kernel = shape.position_kernel;
    length_ = conv.tensor(length_name_, {1, 1, kernel}, nn::Init::ones);
    direction_ = conv.tensor(direction_name_, {shape.width, shape.width / shape.position_groups, kernel});
    bias_ = conv.tensor("bias", {shape.width}, nn::Init::zeros);
    folded_from_ = {length_, direction_};
    folded_ = fold();
  }

  /// What is added to the rows.
  at::Tensor operator()(const nn::Tokens& tokens) const {
    const nn::Layout& layout = tokens.layout;
    // Zeros behind the shorter sequences are what the convolution sees beyond an end anyway.
    const std::vector<at::Tensor> pieces =
        layout.is_uniform() ? std::vector<at::Tensor>() : tokens.rows.split_with_sizes(layout.lengths(), 0);
    const at::Tensor x = layout.is_uniform() ? tokens.rows.view({layout.batch(), -1, shape_.width}) : at::pad_sequence(pieces, true);
    at::Tensor y = at::conv1d(x.transpose(1, 2), weight(), bias_, 1, shape_.position_kernel / 2, 1, shape_.position_groups);
    y = nn::activate(y.narrow(2, 0, x.size(1)), shape_.position_activation).transpose(1, 2);
    if (layout.is_uniform()) return y.reshape({-1, shape_.width});
    std::vector<at::Tensor> rows;
    for (std::int64_t b = 0; b < layout.batch(); ++b) rows.push_back(y[b].narrow(0, 0, layout.length(b)));
    return at::cat(rows);
  }

  std::int64_t macs(std::int64_t frames) const { return frames * direction_.numel(); }

  void list(nn::SiteTable& table) {
    table.tensors.push_back({name_ + "." + length_name_, &length_});
    table.tensors.push_back({name_ + "." + direction_name_, &direction_});
    table.tensors.push_back({name_ + ".bias", &bias_});
  }

 private:
  at::Tensor fold() const { return direction_ * (length_ / direction_.norm(2, {0, 1}, true)); }
  at::Tensor weight() const {
    const bool unchanged = length_.is_same(folded_from_.first) && direction_.is_same(folded_from_.second);
    return unchanged && !length_.requires_grad() && !direction_.requires_grad() ? folded_ : fold();
  }

  Shape shape_;
  std::string name_, length_name_, direction_name_;
  at::Tensor length_, direction_, bias_, folded_;
  std::pair<at::Tensor, at::Tensor> folded_from_;
};

class Wav2Vec2 final : public Backbone, public Stepwise {
 public:
  Wav2Vec2(const Config& config, const nn::Weights& w)
      : shape_(read_shape(config)),
        front_shape_(read_front_shape(config)),
        front_(front_shape_, w / "feature_extractor"),
        feature_norm_(w / "feature_projection" / "layer_norm", front_shape_.channels.back(), shape_.epsilon),
        projection_(w / "feature_projection" / "projection", front_shape_.channels.back(), shape_.width, 0),
        positions_(shape_, w / "encoder" / "pos_conv_embed"),
        norm_(w / "encoder" / "layer_norm", shape_.width, shape_.epsilon) {
    for (std::int64_t layer = 0; layer < shape_.layers; ++layer) {
      const nn::Weights block = w / "encoder" / "layers" / layer;
      const bool last = layer + 1 == shape_.layers;
      if (shape_.stable) {
        pre_norm_.push_back(std::make_unique<PreNormBlock>(PreNormShape{.width = shape_.width,
                                                                        .heads = shape_.heads,
                                                                        .inner = shape_.inner,
                                                                        .epsilon = shape_.epsilon,
                                                                        .activation = shape_.activation,
                                                                        .prompt_position = 0},
                                                           pre_norm_names, block, layer, last));
      } else {
        post_norm_.push_back(std::make_unique<PostNormBlock>(PostNormShape{.width = shape_.width,
                                                                           .heads = shape_.heads,
                                                                           .inner = shape_.inner,
                                                                           .epsilon = shape_.epsilon,
                                                                           .activation = shape_.activation,
                                                                           .prompt_position = 0},
                                                             post_norm_names, block, layer, last));
      }
    }
    report_ = w.finish();
    sites_.inputs = {&input_};
    front_.list(sites_);
    feature_norm_.list(sites_);
    projection_.list(sites_);
    positions_.list(sites_);
    norm_.list(sites_);
    for (auto& block : pre_norm_) block->list(sites_);
    for (auto& block : post_norm_) block->list(sites_);
    info_ = {.architecture = "wav2vec2",
             .modality = Modality::audio,
             .width = shape_.width,
             .layers = shape_.layers,
             .heads = shape_.heads,
             .has_class_token = false,
             .usual_pooling = Pooling::mean,
             .least_length = front_.least_samples()};
  }

  ModelOutputs forward(const ModelInputs& inputs, const nn::Context& context) override { return encode(frames(inputs, context), context); }

  nn::Tokens enter(const ModelInputs& inputs, const nn::Context& context) const override { return embed(frames(inputs, context), context); }
  void step(std::int64_t block, nn::Tokens& tokens, StepRows wanted, const nn::Context& context) const override {
    const auto at = static_cast<std::size_t>(block);
    shape_.stable ? pre_norm_.at(at)->step(tokens, wanted, context) : post_norm_.at(at)->step(tokens, wanted, context);
  }
  nn::KeyValueRows keys_values(std::int64_t block, const at::Tensor& rows, const nn::Context& context) const override {
    const auto at = static_cast<std::size_t>(block);
    return shape_.stable ? pre_norm_.at(at)->keys_values(rows, context) : post_norm_.at(at)->keys_values(rows, context);
  }
  ModelOutputs leave(const nn::Tokens& tokens, const nn::Context&) const override {
    return {.last_hidden_state = shape_.stable ? norm_(tokens.rows) : tokens.rows, .layout = tokens.layout};
  }

  TensorMap forward_named(const TensorMap& inputs, const nn::Context& context) override {
    const nn::Tokens features = frames(sound_inputs(inputs), context);
    const ModelOutputs outputs = encode(features, context);
    return {{"last_hidden_state", outputs.last_hidden_state.view({outputs.layout.batch(), -1, shape_.width})},
            {"extract_features", features.rows.view({features.layout.batch(), -1, features.rows.size(1)})}};
  }

  std::int64_t macs(std::int64_t samples, bool read_first) const override {
    const std::int64_t frames = front_.frames_of(samples);
    return front_.macs(samples) + frames * projection_.site().in * projection_.site().out + positions_.macs(frames) +
           block_macs(samples, read_first);
  }
  std::int64_t block_macs(std::int64_t samples, bool) const override {
    return encoder_macs(shape_.layers, shape_.width, shape_.inner, front_.frames_of(samples), false);
  }
  std::int64_t rows_of(std::int64_t samples) const override { return front_.frames_of(samples); }

 private:
  /// The normed frames.
  nn::Tokens frames(const ModelInputs& inputs, const nn::Context& context) const {
    const at::Tensor samples = input_.hook ? input_.hook->apply(inputs.input_values, context) : inputs.input_values;
    nn::Tokens tokens = front_(samples, inputs.audio_layout, context);
    tokens.rows = feature_norm_(tokens.rows);
    return tokens;
  }

  /// What enters the first block.
  nn::Tokens embed(const nn::Tokens& features, const nn::Context& context) const {
    nn::Tokens tokens{projection_(features.rows, context), features.layout};
    if (const at::Tensor& mask = tokens.layout.key_mask(); mask.defined())
      tokens.rows = tokens.rows.masked_fill(mask.logical_not().view({-1, 1}), 0.0);
    tokens.rows = tokens.rows + positions_(tokens);
    if (!shape_.stable) tokens.rows = norm_(tokens.rows);
    return tokens;
  }

  ModelOutputs encode(const nn::Tokens& features, const nn::Context& context) const {
    nn::Tokens tokens = embed(features, context);
    run_blocks(pre_norm_, tokens, at::Tensor(), context);
    run_blocks(post_norm_, tokens, false, context);
    return leave(tokens, context);
  }

  Shape shape_;
  FrontShape front_shape_;
  nn::InputSite input_{.name = "input_values"};
  Front front_;
  nn::LayerNorm feature_norm_;
  nn::Linear projection_;
  Positions positions_;
  nn::LayerNorm norm_;
  std::vector<std::unique_ptr<PreNormBlock>> pre_norm_;
  std::vector<std::unique_ptr<PostNormBlock>> post_norm_;
};

std::unique_ptr<Backbone> make(const Config& config, const nn::Weights& weights) {
  return std::make_unique<Wav2Vec2>(config, weights);
}

}  // namespace

Architecture wav2vec2_architecture() {
  return {"wav2vec2", {"", "wav2vec2."}, "feature_projection.projection.weight", make};
}

}  // namespace mmtune::backbones
