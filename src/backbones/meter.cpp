// METER (model_type "meter"; Dou et al. 2022, arXiv 2111.02387): RoBERTa, an image encoder (CLIP's or Swin), and co-attention layers in
// which the text's and the picture's streams attend to each other. Names and layout are those of the released checkpoints (meter_names.h);
// config.json is mmtune's own, as `mmtune import` writes it. Both encoders are frozen and bear no sites; experts go onto the co-attention
// layers, as in the released models.

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>

#include "backbones/clip_towers.h"
#include "backbones/co_attention.h"
#include "backbones/meter_names.h"
#include "backbones/named_inputs.h"
#include "backbones/registry.h"
#include "core/error.h"
#include "nn/recompute.h"

namespace mmtune::backbones {

namespace {

/// A picture's rows, before they are mapped to the width of the co-attention layers.
class ImageEncoder {
 public:
  virtual ~ImageEncoder() = default;
  /// [B, C, H, W] → [B·N, width]
  virtual at::Tensor rows(const ModelInputs& inputs, const nn::Context& context) = 0;
  virtual Backbone& backbone() = 0;
};

/// The rows behind all blocks, each normed. The released models leave out CLIP's last block, so that config.json counts 11.
class ClipEncoderOfMeter final : public ImageEncoder {
 public:
  ClipEncoderOfMeter(const Config& config, const nn::Weights& root) : tower_(config, root, root / "vit_model", 0) {
    if (tower_.info().image_height != tower_.info().image_width) throw Error({.what = "image_size is no square", .where = config.where()});
  }
  at::Tensor rows(const ModelInputs& inputs, const nn::Context& context) override {
    return tower_.normed(tower_.forward(inputs, context).last_hidden_state);
  }
  Backbone& backbone() override { return tower_; }

 private:
  ClipImageTower tower_;
};

class SwinEncoderOfMeter final : public ImageEncoder {
 public:
  SwinEncoderOfMeter(const Config& config, const nn::Weights& root) : swin_(swin_architecture().make(config, root / "vit_model")) {}
  at::Tensor rows(const ModelInputs& inputs, const nn::Context& context) override {
    return swin_->forward(inputs, context).last_hidden_state;
  }
  Backbone& backbone() override { return *swin_; }

 private:
  std::unique_ptr<Backbone> swin_;
};

MeterImageEncoder encoder_kind(const Config& vision) {
  const std::string type = vision.text("model_type", "");
  for (const MeterImageEncoder kind : {MeterImageEncoder::clip, MeterImageEncoder::swin})
    if (type == name_of(kind)) return kind;
  throw Error({.what = "config key \"model_type\" names no image encoder of METER",
               .where = vision.where(),
               .expected = "\"clip_vision_model\" or \"swin\"",
               .got = "\"" + printable(type) + "\""});
}

/// Throws Error where the file holds the other encoder.
void refuse_other_encoder(const nn::Weights& top, MeterImageEncoder kind, const Config& config) {
  std::string held;
  if (top.shape_of("vit_model.visual.conv1.weight")) held = "clip_vision_model";
  if (top.shape_of("vit_model.patch_embed.proj.weight")) held = "swin";
  if (held.empty() || held == name_of(kind)) return;
  throw Error({.what = "the checkpoint has another image encoder than config.json says",
               .where = config.where() + " (vision_config.model_type)",
               .expected = "\"" + held + "\", which the tensors are of",
               .got = "\"" + std::string(name_of(kind)) + "\""});
}

CoAttentionShape read_shape(const Config& config) {
  CoAttentionShape shape{.width = config.integer("hidden_size", 768),
                         .heads = config.integer("num_attention_heads", 12),
                         .inner = config.integer("intermediate_size", 3072),
                         .layers = config.integer("num_hidden_layers", 6),
                         .epsilon = config.number("layer_norm_eps", 1e-12),
                         .activation = nn::activation_named(config.text("hidden_act", "gelu"), config.where())};
  if (shape.width % shape.heads != 0)
    throw Error({.what = "hidden_size is not a multiple of num_attention_heads", .where = config.where()});
  return shape;
}

class Meter final : public Backbone {
 public:
  Meter(const Config& config, const nn::Weights& w, MeterImageEncoder kind)
      : shape_(read_shape(config)),
        averages_(kind == MeterImageEncoder::swin),
        modality_count_(config.integer("modality_type_vocab_size", 2)),
        text_(roberta_architecture().make(config.section("text_config"), w / "text_transformer")),
        image_(make_encoder(config.section("vision_config"), w, kind)),
        text_transform_(w / "cross_modal_text_transform", text_->info().width, shape_.width, 0),
        image_transform_(w / "cross_modal_image_transform", image_->backbone().info().width, shape_.width, 0),
        modality_types_((w / "token_type_embeddings").tensor("weight", {modality_count_, shape_.width})),
        text_pooler_(w / "cross_modal_text_pooler" / "dense", shape_.width, shape_.width, shape_.layers),
        image_pooler_(w / "cross_modal_image_pooler" / "dense", shape_.width, shape_.width, shape_.layers) {
    if (text_->info().width != shape_.width)
      throw Error({.what = "the text encoder is not as wide as the co-attention layers",
                   .where = config.where(),
                   .expected = std::to_string(shape_.width),
                   .got = std::to_string(text_->info().width)});
    if (modality_count_ < 2) throw Error({.what = "modality_type_vocab_size leaves no type for pictures", .where = config.where()});
    for (std::int64_t layer = 0; layer < shape_.layers; ++layer) {
      text_layers_.push_back(std::make_unique<CoAttentionLayer>(shape_, w / "cross_modal_text_layers" / layer, layer));
      image_layers_.push_back(std::make_unique<CoAttentionLayer>(shape_, w / "cross_modal_image_layers" / layer, layer));
    }
    report_ = w.finish();
    list_sites();
    const BackboneInfo &picture = image_->backbone().info(), &words = text_->info();
    image_rows_ = picture.max_length;
    info_ = {.architecture = "meter",
             .modality = Modality::text_image,
             .width = shape_.width,
             .layers = shape_.layers,
             .heads = shape_.heads,
             .has_pooler = true,
             .pooled = 2 * shape_.width,
             .usual_pooling = Pooling::pooler,
             .max_length = words.max_length,
             .image_height = picture.image_height,
             .image_width = picture.image_width,
             .image_channels = picture.image_channels};
    first_token_ = {.name = "token4classifier", .width = shape_.width, .usual = usual_first_row(config.section("text_config"))};
    sites_.first_token = &first_token_;
  }

  ModelOutputs forward(const ModelInputs& inputs, const nn::Context& context) override {
    nn::Tokens text = embed_text(inputs, context), image = embed_image(inputs, context);
    const bool first = context.read == nn::ReadRows::first;
    for (std::size_t i = 0; i < text_layers_.size(); ++i) {
      const Streams layer = [this, i, first](nn::Tokens& words, nn::Tokens& picture, const nn::Context& own) {
        run_layer(i, words, picture, first, own);
      };
      if (context.recompute) {
        run_together(text, image, context, layer);
      } else {
        layer(text, image, context);
      }
    }
    ModelOutputs outputs{
        .last_hidden_state = text.rows, .layout = text.layout, .image_hidden_state = image.rows, .image_layout = image.layout};
    const at::Tensor picture = averages_ ? nn::mean_rows(image.rows, image.layout) : nn::first_rows(image.rows, image.layout);
    outputs.pooler_output =
        at::cat({at::tanh(text_pooler_(nn::first_rows(text.rows, text.layout), context)), at::tanh(image_pooler_(picture, context))}, 1);
    return outputs;
  }

  /// input_ids or inputs_embeds, attention_mask, pixel_values, image_token_type_idx → last_hidden_state (the text's stream),
  /// image_hidden_state (the picture's), and pooler_output, the two pooled rows beside each other.
  TensorMap forward_named(const TensorMap& inputs, const nn::Context& context) override {
    TensorMap texts = inputs;
    const auto pixels = texts.extract("pixel_values"), type = texts.extract("image_token_type_idx");
    const BackboneInfo& picture = image_->backbone().info();
    ModelInputs batch = text_inputs(texts, vocabulary_, 1, info_.max_length + 2, shape_.width, info_.max_length);
    TensorMap pictures;
    if (!pixels.empty()) pictures.emplace("pixel_values", pixels.mapped());
    batch.pixel_values = picture_input(pictures, picture.image_channels, picture.image_height, picture.image_width);
    const std::int64_t count = batch.text_layout.batch();
    if (batch.pixel_values.size(0) != count)
      throw Error({.what = "texts and pictures are not as many",
                   .where = "pixel_values",
                   .expected = std::to_string(count),
                   .got = std::to_string(batch.pixel_values.size(0))});
    if (!type.empty()) {
      if (type.mapped().numel() != 1 || !at::isIntegralType(type.mapped().scalar_type(), false))
        throw Error({.what = "input is not one integer", .where = "image_token_type_idx"});
      batch.image_type = type.mapped().item<std::int64_t>();
    }
    const ModelOutputs outputs = forward(batch, context);
    return {{"last_hidden_state", outputs.last_hidden_state.view({count, -1, shape_.width})},
            {"image_hidden_state", outputs.image_hidden_state.view({count, -1, shape_.width})},
            {"pooler_output", outputs.pooler_output}};
  }

  /// `tokens`: of the text; a picture has as many as the encoder makes of it.
  std::int64_t macs(std::int64_t tokens, bool read_first) const override {
    const std::int64_t transforms = (tokens * text_->info().width + image_rows_ * image_->backbone().info().width) * shape_.width;
    return text_->macs(tokens, false) + image_->backbone().macs(image_rows_, false) + transforms + block_macs(tokens, read_first);
  }
  std::int64_t block_macs(std::int64_t tokens, bool read_first) const override {
    std::int64_t total = 2 * shape_.width * shape_.width;
    for (std::int64_t layer = 0; layer < shape_.layers; ++layer) {
      const bool narrow = read_first && layer + 1 == shape_.layers;
      total += CoAttentionLayer::macs(shape_, tokens, narrow ? 1 : tokens, image_rows_);
      total += CoAttentionLayer::macs(shape_, image_rows_, narrow && !averages_ ? 1 : image_rows_, tokens);
    }
    return total;
  }
  /// Both streams' rows; those of a text alone are what macs() counts in.
  std::int64_t rows_of(std::int64_t tokens) const override { return tokens + image_rows_; }
  std::int64_t rows_at(std::string_view name, std::int64_t, std::int64_t rows) const override {
    const std::int64_t tokens = rows - image_rows_;
    if (name == text_pooler_.site().name || name == image_pooler_.site().name) return 1;
    if (name.starts_with("cross_modal_image_transform")) return image_rows_;
    const bool picture = name.starts_with("cross_modal_image_layers");
    // The keys and values of a cross-attention are the other stream's.
    const bool others = name.find(".crossattention.self.key") != std::string_view::npos ||
                        name.find(".crossattention.self.value") != std::string_view::npos;
    return others == picture ? tokens : image_rows_;
  }

 private:
  using Streams = std::function<void(nn::Tokens& text, nn::Tokens& image, const nn::Context& context)>;

  /// Layer `i` of both streams; `first`: only the first row of each is wanted behind the last one.
  void run_layer(std::size_t i, nn::Tokens& text, nn::Tokens& image, bool first, const nn::Context& context) const {
    const bool last = i + 1 == text_layers_.size();
    for (auto [layer, tokens] : {std::pair(text_layers_[i].get(), &text), std::pair(image_layers_[i].get(), &image)})
      if (layer->sequence().hook) layer->sequence().hook->before_block(*tokens, context);
    // Both read what the streams were before the layer.
    const OtherStream words{text.rows, text.layout}, picture{image.rows, image.layout};
    const bool first_text = first && last, first_picture = first_text && !averages_;
    (*text_layers_[i])(text, picture, first_text, context);
    (*image_layers_[i])(image, words, first_picture, context);
    if (!first_text && text_layers_[i]->sequence().hook) text_layers_[i]->sequence().hook->after_block(text, context);
    if (!first_picture && image_layers_[i]->sequence().hook) image_layers_[i]->sequence().hook->after_block(image, context);
  }

  /// Gradient checkpointing of a layer: what is computed again has one matrix of rows, so both streams' go in and out as one.
  static void run_together(nn::Tokens& text, nn::Tokens& image, const nn::Context& context, const Streams& layer) {
    struct Frames {
      nn::Tokens text, image;  ///< without rows
      std::int64_t text_rows = 0;
      Frames(const nn::Tokens& words, const nn::Tokens& picture) : text(words), image(picture), text_rows(words.rows.size(0)) {
        text.rows.reset();
        image.rows.reset();
      }
      std::pair<nn::Tokens, nn::Tokens> with(const at::Tensor& rows) const {
        std::pair<nn::Tokens, nn::Tokens> streams{text, image};
        streams.first.rows = rows.slice(0, 0, text_rows);
        streams.second.rows = rows.slice(0, text_rows);
        return streams;
      }
    };
    const Frames before(text, image);
    const auto after = std::make_shared<std::optional<Frames>>();
    nn::Tokens both{at::cat({text.rows, image.rows}), {}};
    nn::run_block(both, context, [before, after, layer](nn::Tokens& tokens, const nn::Context& own) {
      auto [words, picture] = before.with(tokens.rows);
      layer(words, picture, own);
      after->emplace(words, picture);
      tokens.rows = at::cat({words.rows, picture.rows});
    });
    std::tie(text, image) = (*after)->with(both.rows);
  }

  static std::unique_ptr<ImageEncoder> make_encoder(const Config& config, const nn::Weights& w, MeterImageEncoder kind) {
    if (kind == MeterImageEncoder::clip) return std::make_unique<ClipEncoderOfMeter>(config, w);
    return std::make_unique<SwinEncoderOfMeter>(config, w);
  }

  void list_sites() {
    // Tensors of the encoders can be freed all the same (method = "full").
    for (const auto& [part, scope] :
         {std::pair(text_.get(), std::string("text_transformer.")), std::pair(&image_->backbone(), std::string("vit_model."))}) {
      for (nn::TensorSlot slot : part->sites().tensors) {
        if (!slot.name.starts_with(scope)) slot.name = scope + slot.name;
        sites_.tensors.push_back(std::move(slot));
      }
    }
    sites_.inputs = image_->backbone().sites().inputs;
    text_transform_.list(sites_);
    image_transform_.list(sites_);
    sites_.tensors.push_back({"token_type_embeddings.weight", &modality_types_});
    for (std::size_t i = 0; i < text_layers_.size(); ++i) {
      text_layers_[i]->list(sites_);
      image_layers_[i]->list(sites_);
    }
    text_pooler_.list(sites_);
    image_pooler_.list(sites_);
  }

  /// The embedding of the text encoder's token 0, at its first place.
  at::Tensor usual_first_row(const Config& config) {
    const auto tensor = [this](const std::string& name) {
      for (const nn::TensorSlot& slot : sites_.tensors)
        if (slot.name == "text_transformer.embeddings." + name) return *slot.tensor;
      MMTUNE_ASSERT(false);
      return at::Tensor();
    };
    const at::Tensor words = tensor("word_embeddings.weight");
    vocabulary_ = words.size(0);
    const std::int64_t place = static_cast<std::int64_t>(config.number("pad_token_id", 1)) + 1;
    const at::Tensor row = nn::lookup(words, at::zeros({1}, at::kLong)) + tensor("token_type_embeddings.weight").slice(0, 0, 1) +
                           tensor("position_embeddings.weight").slice(0, place, place + 1);
    const double epsilon = config.number("layer_norm_eps", 1e-12);
    return at::layer_norm(row, {shape_.width}, tensor("LayerNorm.weight"), tensor("LayerNorm.bias"), epsilon).view({shape_.width});
  }

  /// What the encoders give has every row, whatever is read behind the co-attention layers.
  static nn::Context for_encoders(const nn::Context& context) {
    nn::Context own = context;
    own.read = nn::ReadRows::all;
    return own;
  }

  nn::Tokens embed_text(const ModelInputs& inputs, const nn::Context& context) {
    const ModelOutputs outputs = text_->forward(inputs, for_encoders(context));
    at::Tensor rows = text_transform_(outputs.last_hidden_state, context);
    if (first_token_.value.defined()) {
      const std::vector<std::int64_t> offsets = outputs.layout.offsets();
      std::vector<std::int64_t> source(static_cast<std::size_t>(rows.size(0)));
      for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<std::int64_t>(i);
      for (std::size_t b = 0; b + 1 < offsets.size(); ++b) source[static_cast<std::size_t>(offsets[b])] = rows.size(0);
      rows = at::cat({rows, first_token_.value.view({1, shape_.width})}).index_select(0, nn::beside(at::tensor(source, at::kLong), rows));
    }
    return {rows + modality_types_.select(0, 0), outputs.layout};
  }

  nn::Tokens embed_image(const ModelInputs& inputs, const nn::Context& context) {
    if (inputs.image_type < 1 || (inputs.image_type >= modality_count_ && inputs.image_type > 2))
      throw Error({.what = "the model has no such modality type",
                   .where = "image_token_type_idx",
                   .expected = "1 to " + std::to_string(std::max<std::int64_t>(modality_count_ - 1, 2)),
                   .got = std::to_string(inputs.image_type)});
    const at::Tensor rows = image_transform_(image_->rows(inputs, for_encoders(context)), context);
    const std::int64_t batch = inputs.pixel_values.size(0);
    return {rows + modality_types_.select(0, std::min(inputs.image_type, modality_count_ - 1)),
            nn::Layout::uniform(batch, rows.size(0) / batch)};
  }

  CoAttentionShape shape_;
  bool averages_;  ///< the picture's rows are averaged for its pooler, instead of row 0
  std::int64_t modality_count_, image_rows_ = 0, vocabulary_ = 0;
  nn::FirstTokenSite first_token_;
  std::unique_ptr<Backbone> text_;
  std::unique_ptr<ImageEncoder> image_;
  nn::Linear text_transform_, image_transform_;
  at::Tensor modality_types_;
  std::vector<std::unique_ptr<CoAttentionLayer>> text_layers_, image_layers_;
  nn::Linear text_pooler_, image_pooler_;
};

std::unique_ptr<Backbone> make(const Config& config, const nn::Weights& weights) {
  const MeterImageEncoder kind = encoder_kind(config.section("vision_config"));
  refuse_other_encoder(weights.top(), kind, config);
  return std::make_unique<Meter>(config, weights.laid_out([kind](const std::string& name) { return original_meter_place(name, kind); }),
                                 kind);
}

}  // namespace

Architecture meter_architecture() {
  return {"meter", {""}, "cross_modal_text_transform.weight", make};
}

}  // namespace mmtune::backbones
