// ViLT (model_type "vilt"; Kim et al. 2021, arXiv 2102.03334): one stream of a text's words and a picture's patches through pre-norm
// blocks. Names as in transformers' ViltModel and its task models; the released checkpoints' own names are read too (vilt_names.h).

#include <ATen/ATen.h>

#include <algorithm>

#include "backbones/named_inputs.h"
#include "backbones/pre_norm_block.h"
#include "backbones/registry.h"
#include "backbones/vilt_heads.h"
#include "backbones/vilt_names.h"
#include "backbones/vilt_pictures.h"
#include "core/error.h"

namespace mmtune::backbones {

namespace {

struct Shape {
  std::int64_t width, heads, inner, layers, vocabulary, positions, types, modality_types;
  double text_epsilon;   ///< of the norm of the text's embeddings
  double block_epsilon;  ///< of the blocks and of the last norm
  bool qkv_bias;
  nn::Activation activation;
};

Shape read_shape(const Config& config, bool original) {
  // transformers has one for all of them; the released code has 1e-6 in the blocks and 1e-12 in front of them.
  const double epsilon = config.number("layer_norm_eps", 1e-12);
  Shape shape{.width = config.integer("hidden_size", 768),
              .heads = config.integer("num_attention_heads", 12),
              .inner = config.integer("intermediate_size", 3072),
              .layers = config.integer("num_hidden_layers", 12),
              .vocabulary = config.integer("vocab_size", 30522),
              .positions = config.integer("max_position_embeddings", 40),
              .types = config.integer("type_vocab_size", 2),
              .modality_types = config.integer("modality_type_vocab_size", 2),
              .text_epsilon = epsilon,
              .block_epsilon = config.number("block_layer_norm_eps", original ? 1e-6 : epsilon),
              .qkv_bias = config.flag("qkv_bias", true),
              .activation = nn::activation_named(config.text("hidden_act", "gelu"), config.where())};
  if (shape.width % shape.heads != 0)
    throw Error({.what = "hidden_size is not a multiple of num_attention_heads", .where = config.where()});
  if (shape.modality_types < 2) throw Error({.what = "modality_type_vocab_size leaves no type for pictures", .where = config.where()});
  return shape;
}

class Vilt final : public Backbone {
 public:
  Vilt(const Config& config, const nn::Weights& w, bool original)
      : shape_(read_shape(config, original)),
        words_((w / "embeddings" / "text_embeddings").matrix("word_embeddings.weight", {shape_.vocabulary, shape_.width})),
        positions_((w / "embeddings" / "text_embeddings").tensor("position_embeddings.weight", {shape_.positions, shape_.width})),
        types_((w / "embeddings" / "text_embeddings").tensor("token_type_embeddings.weight", {shape_.types, shape_.width})),
        text_norm_(w / "embeddings" / "text_embeddings" / "LayerNorm", shape_.width, shape_.text_epsilon),
        modality_types_((w / "embeddings").tensor("token_type_embeddings.weight", {shape_.modality_types, shape_.width})),
        pictures_(read_patch_shape(config, shape_.width), w / "embeddings"),
        norm_(w / "layernorm", shape_.width, shape_.block_epsilon),
        heads_(config, w.top(), shape_.width, shape_.vocabulary, shape_.text_epsilon) {
    const PreNormShape block{.width = shape_.width,
                             .heads = shape_.heads,
                             .inner = shape_.inner,
                             .epsilon = shape_.block_epsilon,
                             .activation = shape_.activation,
                             .qkv_bias = shape_.qkv_bias};
    for (std::int64_t layer = 0; layer < shape_.layers; ++layer)
      blocks_.push_back(
          std::make_unique<PreNormBlock>(block, vit_names, w / "encoder" / "layer" / layer, layer, layer + 1 == shape_.layers));
    if (w.has("pooler.dense.weight"))
      pooler_ = std::make_unique<nn::Linear>(w / "pooler" / "dense", shape_.width, shape_.width, shape_.layers);
    report_ = w.finish();
    list_sites();
    first_token_ = {.name = "token4classifier", .width = shape_.width, .usual = usual_first_row(config.integer("cls_token_id", 101))};
    sites_.first_token = &first_token_;
    const PatchShape& picture = pictures_.shape();
    info_ = {.architecture = "vilt",
             .modality = Modality::text_image,
             .width = shape_.width,
             .layers = shape_.layers,
             .heads = shape_.heads,
             .has_pooler = pooler_ != nullptr,
             .usual_pooling = pooler_ ? Pooling::pooler : Pooling::first,
             .max_length = shape_.positions,
             .image_height = picture.height,
             .image_width = picture.image_width,
             .image_channels = picture.channels,
             .any_image_size = true,
             .patch_height = picture.patch_height,
             .patch_width = picture.patch_width,
             .max_patches = picture.most};
  }

  ModelOutputs forward(const ModelInputs& inputs, const nn::Context& context) override {
    return run(inputs, inputs.text_layout.key_mask().defined(), context);
  }

  /// input_ids or inputs_embeds, attention_mask, token_type_ids, pixel_values, pixel_mask, image_token_type_idx → last_hidden_state (text,
  /// class token, patches by the picture's lines), pooler_output, and logits where the checkpoint has the head of a task. A model for
  /// several pictures takes pixel_values [B, n, C, H, W] and gives logits alone.
  TensorMap forward_named(const TensorMap& inputs, const nn::Context& context) override {
    TensorMap texts = inputs;
    const auto pixels = texts.extract("pixel_values"), mask = texts.extract("pixel_mask"), type = texts.extract("image_token_type_idx");
    if (pixels.empty()) throw Error({.what = "input is missing", .where = "pixel_values"});
    refuse_unknown_inputs(texts, {"input_ids", "attention_mask", "token_type_ids", "inputs_embeds"});
    ModelInputs batch = text_inputs(texts, shape_.vocabulary, shape_.types, shape_.positions, shape_.width);
    const std::int64_t count = batch.text_layout.batch();
    const at::Tensor masks = mask.empty() ? at::Tensor() : mask.mapped();
    const bool several = pixels.mapped().dim() == 5;
    if (several) {
      if (heads_.pictures() < 2 || pixels.mapped().size(1) != heads_.pictures())
        throw Error({.what = "input has the wrong number of pictures",
                     .where = "pixel_values",
                     .expected = std::to_string(std::max<std::int64_t>(heads_.pictures(), 1)),
                     .got = std::to_string(pixels.mapped().size(1))});
      if (!type.empty()) throw Error({.what = "is told by the pictures' order", .where = "image_token_type_idx"});
      if (masks.defined() && (masks.dim() != 4 || masks.size(1) != heads_.pictures()))
        throw Error({.what = "input has the wrong shape", .where = "pixel_mask", .expected = "[B, pictures, H, W]"});
      std::vector<at::Tensor> pooled;
      for (std::int64_t i = 0; i < heads_.pictures(); ++i) {
        set_picture(pixels.mapped().select(1, i), masks.defined() ? masks.select(1, i) : masks, count, batch);
        batch.image_type = i + 1;
        pooled.push_back(run(batch, true, context).pooler_output);
      }
      return {{"logits", heads_.pooled_logits(at::cat(pooled, 1))}};
    }
    set_picture(pixels.mapped(), masks, count, batch);
    if (!type.empty()) {
      if (type.mapped().numel() != 1 || !at::isIntegralType(type.mapped().scalar_type(), false))
        throw Error({.what = "input is not one integer", .where = "image_token_type_idx"});
      batch.image_type = type.mapped().item<std::int64_t>();
    }
    const ModelOutputs outputs = run(batch, true, context);
    const at::Tensor rows = outputs.last_hidden_state.view({count, -1, shape_.width});
    TensorMap result{{"last_hidden_state", rows}};
    if (outputs.pooler_output.defined()) {
      result["pooler_output"] = outputs.pooler_output;
      if (const at::Tensor logits = heads_.pictures() > 1 ? at::Tensor() : heads_.pooled_logits(outputs.pooler_output); logits.defined())
        result["logits"] = logits;
    }
    const std::int64_t words = batch.text_layout.length(0);
    if (const at::Tensor logits = heads_.word_logits(rows.slice(1, 0, words), words_); logits.defined()) result["logits"] = logits;
    return result;
  }

  std::int64_t macs(std::int64_t tokens, bool read_first) const override {
    return encoder_macs(shape_.layers, shape_.width, shape_.inner, tokens, read_first) + (pooler_ ? shape_.width * shape_.width : 0);
  }
  std::int64_t picture_macs(std::int64_t patches) const override { return patches * pictures_.shape().patch_size() * shape_.width; }
  std::int64_t rows_at(std::string_view name, std::int64_t, std::int64_t tokens) const override {
    return pooler_ && name == pooler_->site().name ? 1 : tokens;
  }

 private:
  void list_sites() {
    sites_.inputs = {&input_};
    sites_.tensors = {{"embeddings.text_embeddings.word_embeddings.weight", &words_},
                      {"embeddings.text_embeddings.position_embeddings.weight", &positions_},
                      {"embeddings.text_embeddings.token_type_embeddings.weight", &types_}};
    text_norm_.list(sites_);
    sites_.tensors.push_back({"embeddings.token_type_embeddings.weight", &modality_types_});
    pictures_.list(sites_);
    for (auto& block : blocks_) block->list(sites_);
    norm_.list(sites_);
    if (pooler_) pooler_->list(sites_);
  }

  at::Tensor usual_first_row(std::int64_t id) const {
    if (id >= shape_.vocabulary) return {};
    const at::Tensor row = nn::lookup(words_, at::tensor({id}, at::kLong)) + types_.slice(0, 0, 1) + positions_.slice(0, 0, 1);
    return text_norm_(row).view({shape_.width}).clone();
  }

  /// Pixels and the sizes that their mask tells. Throws Error where a picture does not lie in the upper left corner.
  void set_picture(const at::Tensor& pixels, const at::Tensor& mask, std::int64_t batch, ModelInputs& inputs) const {
    inputs.pixel_values = picture_input({{"pixel_values", pixels}}, pictures_.shape().channels, 0, 0);
    inputs.picture_sizes.clear();
    if (pixels.size(0) != batch)
      throw Error({.what = "texts and pictures are not as many",
                   .where = "pixel_values",
                   .expected = std::to_string(batch),
                   .got = std::to_string(pixels.size(0))});
    const std::int64_t rows = pixels.size(2) / pictures_.shape().patch_height, columns = pixels.size(3) / pictures_.shape().patch_width;
    if (rows < 1 || columns < 1) throw Error({.what = "the pictures are smaller than a patch", .where = "pixel_values"});
    if (!mask.defined()) return;
    if (mask.dim() != 3 || mask.size(0) != batch)
      throw Error({.what = "input has the wrong shape", .where = "pixel_mask", .expected = "[B, H, W]"});
    // As transformers samples it: the nearest pixel at or before a patch's own corner.
    const auto corners = [](std::int64_t patches, std::int64_t size) {
      return at::arange(patches, at::kLong).mul(size).div(std::max<std::int64_t>(patches, 1), "floor");
    };
    const at::Tensor grid =
        mask.to(at::kCPU).ne(0).index_select(1, corners(rows, mask.size(1))).index_select(2, corners(columns, mask.size(2)));
    for (std::int64_t b = 0; b < batch; ++b) {
      const at::Tensor one = grid[b];
      const auto height = one.select(1, 0).sum().item<std::int64_t>(), width = one.select(0, 0).sum().item<std::int64_t>();
      if (height < 1 || width < 1 || !one.slice(0, 0, height).slice(1, 0, width).all().item<bool>() ||
          one.sum().item<std::int64_t>() != height * width)
        throw Error({.what = "a picture does not lie in the upper left corner",
                     .where = "pixel_mask",
                     .expected = "ones in a rectangle of whole patches from there, zeros elsewhere",
                     .got = "another shape for example " + std::to_string(b)});
      inputs.picture_sizes.emplace_back(height * pictures_.shape().patch_height, width * pictures_.shape().patch_width);
    }
  }

  /// Words, positions and types, normed: [Nt, D].
  at::Tensor embed_text(const ModelInputs& inputs) const {
    const nn::Layout& layout = inputs.text_layout;
    const std::int64_t longest = *std::max_element(layout.lengths().begin(), layout.lengths().end());
    if (longest > shape_.positions)
      throw Error({.what = "a text is longer than the position table",
                   .where = "input_ids",
                   .expected = "at most " + std::to_string(shape_.positions) + " tokens",
                   .got = std::to_string(longest)});
    const at::Tensor words = inputs.inputs_embeds.defined() ? inputs.inputs_embeds : nn::lookup(words_, inputs.input_ids);
    const at::Tensor types = inputs.token_type_ids.defined() ? at::embedding(types_, inputs.token_type_ids) : types_.select(0, 0);
    const at::Tensor places = inputs.position_ids.defined() ? inputs.position_ids : nn::positions_within(layout, 0, shape_.positions);
    return text_norm_(words + types + at::embedding(positions_, nn::beside(places, words)));
  }

  /// One sequence an example: its text, the class token, its patches. `padded`: all of one length, with a mask.
  nn::Tokens embed(const ModelInputs& inputs, bool padded, const nn::Context& context) const {
    if (inputs.image_type < 1 || (inputs.image_type >= shape_.modality_types && inputs.image_type > 2))
      throw Error({.what = "the model has no such modality type",
                   .where = "image_token_type_idx",
                   .expected = "1 to " + std::to_string(std::max<std::int64_t>(shape_.modality_types - 1, 2)),
                   .got = std::to_string(inputs.image_type)});
    // A model that knows no second picture gives it the type of the first, as the released code begins with.
    const at::Tensor picture_type = modality_types_.select(0, std::min(inputs.image_type, shape_.modality_types - 1));
    const at::Tensor pixels = input_.hook ? input_.hook->apply(inputs.pixel_values, context) : inputs.pixel_values;
    const PictureRows pictures = pictures_(pixels, inputs.picture_sizes, padded, context);
    const nn::Layout& text = inputs.text_layout;
    MMTUNE_ASSERT(static_cast<std::int64_t>(pictures.selection.counts.size()) == text.batch());

    // Rows of all sequences are one gather from the rows of all kinds.
    std::vector<at::Tensor> kinds = {embed_text(inputs)};
    const std::int64_t class_row = text.rows(), first_patch = class_row + 1, first_row = first_patch + pictures.patches.size(0);
    if (first_token_.value.defined()) kinds.push_back(first_token_.value.view({1, shape_.width}));
    for (at::Tensor& rows : kinds) rows = rows + modality_types_.select(0, 0);
    const std::vector<at::Tensor> picture = {pictures.class_row + picture_type, pictures.patches + picture_type};
    kinds.insert(kinds.begin() + 1, picture.begin(), picture.end());
    std::vector<std::int64_t> source, lengths;
    std::int64_t word = 0, patch = first_patch;
    for (std::int64_t b = 0; b < text.batch(); ++b) {
      const std::int64_t count = pictures.selection.counts[static_cast<std::size_t>(b)];
      for (std::int64_t i = 0; i < text.length(b); ++i, ++word) source.push_back(i == 0 && first_token_.value.defined() ? first_row : word);
      source.push_back(class_row);
      for (std::int64_t i = 0; i < count; ++i) source.push_back(patch++);
      lengths.push_back(text.length(b) + 1 + count);
    }
    const at::Tensor rows = at::cat(kinds);
    return {rows.index_select(0, nn::beside(at::tensor(source, at::kLong), rows)),
            padded ? padded_layout(text, pictures.selection) : nn::Layout::packed(std::move(lengths))};
  }

  static nn::Layout padded_layout(const nn::Layout& text, const PatchSelection& selection) {
    const std::int64_t batch = text.batch(), words = text.length(0), patches = selection.counts.front();
    at::Tensor mask = at::ones({batch, words + 1 + patches}, at::kBool);
    if (text.key_mask().defined()) mask.slice(1, 0, words).copy_(text.key_mask());
    bool* out = mask.data_ptr<bool>();
    for (std::int64_t b = 0; b < batch; ++b)
      for (std::int64_t i = 0; i < patches; ++i)
        out[b * mask.size(1) + words + 1 + i] = selection.visible[static_cast<std::size_t>(b * patches + i)];
    const nn::Layout layout = nn::Layout::uniform(batch, words + 1 + patches, mask.all().item<bool>() ? at::Tensor() : mask);
    return text.key_mask().defined() ? layout.on(text.key_mask().device()) : layout;
  }

  ModelOutputs run(const ModelInputs& inputs, bool padded, const nn::Context& context) const {
    nn::Tokens tokens = embed(inputs, padded, context);
    const bool first = context.read == nn::ReadRows::first;
    run_blocks(blocks_, tokens, first ? at::zeros({tokens.layout.batch()}, at::kLong) : at::Tensor(), context);
    ModelOutputs outputs{.last_hidden_state = norm_(tokens.rows), .layout = tokens.layout};
    if (pooler_) outputs.pooler_output = at::tanh((*pooler_)(nn::first_rows(outputs.last_hidden_state, tokens.layout), context));
    return outputs;
  }

  Shape shape_;
  nn::InputSite input_{.name = "pixel_values"};
  nn::FirstTokenSite first_token_;
  at::Tensor words_, positions_, types_;
  nn::LayerNorm text_norm_;
  at::Tensor modality_types_;
  ViltPictures pictures_;
  std::vector<std::unique_ptr<PreNormBlock>> blocks_;
  nn::LayerNorm norm_;
  std::unique_ptr<nn::Linear> pooler_;
  ViltHeads heads_;
};

std::unique_ptr<Backbone> make(const Config& config, const nn::Weights& weights) {
  if (!weights.top().shape_of(original_vilt_probe)) return std::make_unique<Vilt>(config, weights, false);
  const bool pair = weights.top().shape_of("nlvr2_classifier.0.weight").has_value();
  return std::make_unique<Vilt>(config, weights.laid_out([pair](const std::string& name) { return original_vilt_place(name, pair); }),
                                true);
}

}  // namespace

Architecture vilt_architecture() {
  return {"vilt", {"", "vilt."}, "embeddings.cls_token", make};
}

}  // namespace mmtune::backbones
