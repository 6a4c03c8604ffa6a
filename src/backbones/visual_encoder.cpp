#include "backbones/visual_encoder.h"

#include <ATen/ATen.h>

#include "backbones/clip_towers.h"
#include "backbones/eva_vit.h"
#include "core/error.h"

namespace mmtune::backbones {

namespace {

/// Of how many blocks LLaVA reads the output: `vision_feature_layer` counts hidden states, of which the first is no block's; negative
/// numbers count from the end.
std::int64_t feature_layers(const Config& config) {
  const std::int64_t all = config.section("vision_config").integer("num_hidden_layers", 24);
  const double number = config.number("vision_feature_layer", -2);
  const auto layer = static_cast<std::int64_t>(number);
  const std::int64_t blocks = layer < 0 ? all + 1 + layer : layer;
  if (static_cast<double>(layer) != number || blocks < 1 || blocks > all)
    throw Error({.what = "vision_feature_layer is not the number of a hidden state behind a block",
                 .where = config.where(),
                 .expected = "1 to " + std::to_string(all) + ", or -" + std::to_string(all) + " to -1"});
  return blocks;
}

/// What stands under "vision_config" describes a tower of CLIP's kind.
Config clip_section(const Config& config) {
  Config section = config.section("vision_config");
  section.require("model_type", "clip_vision_model");
  return section;
}

class LlavaVision final : public VisualEncoder {
 public:
  LlavaVision(const Config& config, const nn::Weights& w, std::int64_t width)
      : tower_(clip_section(config), w, w / "vision_tower", 0, feature_layers(config)),
        activation_(nn::activation_named(config.text("projector_hidden_act", "gelu"), config.where())),
        drops_class_token_(config.text("vision_feature_select_strategy", "default") == "default"),
        first_(w / "multi_modal_projector" / "linear_1", tower_.info().width, width, 0, config.flag("multimodal_projector_bias", true)),
        second_(w / "multi_modal_projector" / "linear_2", width, width, 0, config.flag("multimodal_projector_bias", true)) {
    const std::string strategy = config.text("vision_feature_select_strategy", "default");
    if (strategy != "default" && strategy != "full")
      throw Error({.what = "vision_feature_select_strategy is not supported",
                   .where = config.where(),
                   .expected = "default or full",
                   .got = "\"" + printable(strategy) + "\""});
    image_height = tower_.info().image_height;
    image_width = tower_.info().image_width;
    tokens = tower_.info().max_length - (drops_class_token_ ? 1 : 0);
  }

  std::vector<at::Tensor> features(const at::Tensor& pixels, const QFormerText*, const nn::Context& context) override {
    ModelInputs inputs;
    inputs.pixel_values = pixels;
    nn::Context all = context;
    all.read = nn::ReadRows::all;
    const ModelOutputs outputs = tower_.forward(inputs, all);
    const at::Tensor rows = outputs.last_hidden_state.view({pixels.size(0), -1, tower_.info().width});
    return {drops_class_token_ ? rows.narrow(1, 1, rows.size(1) - 1) : rows};
  }
  at::Tensor project(std::span<const at::Tensor> features, const nn::Context& context) const override {
    const at::Tensor& x = features.front();
    const at::Tensor inner = nn::activate(first_(x.reshape({-1, x.size(2)}), context), activation_);
    return second_(inner, context).view({x.size(0), x.size(1), -1});
  }
  Steps steps(const at::Tensor&, const QFormerText*, const nn::Context&) override { return {}; }

  void list(nn::SiteTable& table) override {
    const nn::SiteTable& own = tower_.sites();
    table.weights.insert(table.weights.end(), own.weights.begin(), own.weights.end());
    table.inputs.insert(table.inputs.end(), own.inputs.begin(), own.inputs.end());
    table.tensors.insert(table.tensors.end(), own.tensors.begin(), own.tensors.end());
    first_.list(table);
    second_.list(table);
  }
  std::int64_t macs() const override {
    const std::int64_t width = second_.site().out;
    return tower_.macs(tower_.info().max_length, false) + tokens * (first_.site().in + width) * width;
  }
  std::int64_t query_tokens() const override { return tokens; }

 private:
  ClipImageTower tower_;
  nn::Activation activation_;
  bool drops_class_token_;
  nn::Linear first_, second_;
};

class QFormerVision final : public VisualEncoder {
 public:
  QFormerVision(const Config& config, const nn::Weights& w, std::int64_t width, bool text, bool patches)
      : vit_(w / "vision_model", read_eva_shape(config.section("vision_config"))),
        q_former_(w / "qformer", read_q_former_shape(config.section("qformer_config"), text)),
        queries_(w.tensor("query_tokens", {1, config.integer("num_query_tokens", 32), q_former_.shape().width})),
        projection_(w / "language_projection", q_former_.shape().width, width, 0) {
    if (q_former_.shape().source_width != vit_.shape().width)
      throw Error({.what = "the Q-Former reads rows of another width than the encoder's", .where = config.where()});
    if (patches) patch_projection_ = std::make_unique<nn::Linear>(w / "vision_project", vit_.shape().width, width, 0);
    image_height = image_width = vit_.shape().image;
    tokens = queries_.size(1) + (patches ? vit_.shape().patches() : 0);
    reads_instruction = text;
    max_words = q_former_.shape().positions;
    vocabulary = q_former_.shape().vocabulary;
  }

  std::vector<at::Tensor> features(const at::Tensor& pixels, const QFormerText* text, const nn::Context& context) override {
    const std::int64_t batch = pixels.size(0);
    const EvaVit::Rows rows = vit_(input(pixels, context), patch_projection_ != nullptr, context);
    std::vector<at::Tensor> made = {q_former_(queries_, rows.normed, batch, text, false, context)};
    if (patch_projection_) {
      const at::Tensor all = rows.previous.view({batch, -1, vit_.shape().width});
      made.push_back(all.narrow(1, 1, all.size(1) - 1));
    }
    return made;
  }
  at::Tensor project(std::span<const at::Tensor> features, const nn::Context& context) const override {
    const auto mapped = [&](const nn::Linear& map, const at::Tensor& x) {
      return map(x.reshape({-1, x.size(2)}), context).view({x.size(0), x.size(1), -1});
    };
    const at::Tensor queries = mapped(projection_, features.front());
    return patch_projection_ ? at::cat({queries, mapped(*patch_projection_, features[1])}, 1) : queries;
  }
  Steps steps(const at::Tensor& pixels, const QFormerText* text, const nn::Context& context) override {
    const EvaVit::Rows rows = vit_(pixels, false, context);
    return {rows.last, rows.normed, q_former_(queries_, rows.normed, pixels.size(0), text, true, context)};
  }

  void list(nn::SiteTable& table) override {
    table.inputs.push_back(&input_);
    vit_.list(table);
    table.tensors.push_back({"query_tokens", &queries_});
    q_former_.list(table);
    projection_.list(table);
    if (patch_projection_) patch_projection_->list(table);
  }
  std::int64_t macs() const override {
    const std::int64_t patches = vit_.shape().patches(), queries = queries_.size(1);
    std::int64_t sum = vit_.macs() + q_former_.macs(queries, 0, patches + 1) + queries * projection_.site().in * projection_.site().out;
    if (patch_projection_) sum += patches * patch_projection_->site().in * patch_projection_->site().out;
    return sum;
  }
  std::int64_t query_tokens() const override { return queries_.size(1); }

 private:
  at::Tensor input(const at::Tensor& pixels, const nn::Context& context) const {
    return input_.hook != nullptr ? input_.hook->apply(pixels, context) : pixels;
  }

  nn::InputSite input_{.name = "pixel_values"};
  EvaVit vit_;
  QFormer q_former_;
  at::Tensor queries_;
  nn::Linear projection_;
  std::unique_ptr<nn::Linear> patch_projection_;
};

}  // namespace

std::unique_ptr<VisualEncoder> make_llava_vision(const Config& config, const nn::Weights& weights, std::int64_t width) {
  return std::make_unique<LlavaVision>(config, weights, width);
}

std::unique_ptr<VisualEncoder> make_q_former_vision(const Config& config, const nn::Weights& weights, std::int64_t width, bool text,
                                                    bool patches) {
  return std::make_unique<QFormerVision>(config, weights, width, text, patches);
}

}  // namespace mmtune::backbones
