// Swin transformers (model_type "swin"; Liu et al. 2021, arXiv 2103.14030): window attention with relative positions, patches merged
// between stages. Names as in the checkpoints of transformers' SwinModel. Prompts stand in front of the patches: every window of a picture
// sees all of them, their outputs are averaged over the windows, and merging puts each beside itself four times, so that they go through
// all stages.

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>

#include "backbones/named_inputs.h"
#include "backbones/patches.h"
#include "backbones/pre_norm_block.h"
#include "backbones/registry.h"
#include "backbones/swin_windows.h"
#include "core/error.h"
#include "nn/recompute.h"

namespace mmtune::backbones {

namespace {

struct Shape {
  std::int64_t channels, height, image_width, patch_height, patch_width, width, window;
  std::vector<std::int64_t> depths, heads;
  double mlp_ratio, epsilon;
  bool qkv_bias, absolute;
  nn::Activation activation;

  std::int64_t stages() const { return static_cast<std::int64_t>(depths.size()); }
  std::int64_t layers() const { return std::accumulate(depths.begin(), depths.end(), std::int64_t{0}); }
  std::int64_t width_of(std::int64_t stage) const { return width << stage; }
  std::int64_t inner_of(std::int64_t stage) const { return static_cast<std::int64_t>(mlp_ratio * static_cast<double>(width_of(stage))); }
};

/// Patches of a feature map.
struct Grid {
  std::int64_t height, width;
  std::int64_t patches() const { return height * width; }
  Grid merged() const { return {(height + 1) / 2, (width + 1) / 2}; }
  /// Windows are clamped to the map, and then not shifted.
  std::int64_t side(std::int64_t window) const { return std::min({height, width, window}); }
  bool shifts(std::int64_t window) const { return std::min(height, width) > window; }
};

constexpr double default_epsilon = 1e-5;  // of the norms that the configuration does not reach

Shape read_shape(const Config& config) {
  const auto [height, width] = config.size("image_size", 224);
  const auto [patch_height, patch_width] = config.size("patch_size", 4);
  Shape shape{.channels = config.integer("num_channels", 3),
              .height = height,
              .image_width = width,
              .patch_height = patch_height,
              .patch_width = patch_width,
              .width = config.integer("embed_dim", 96),
              .window = config.integer("window_size", 7),
              .depths = config.integers("depths"),
              .heads = {},
              .mlp_ratio = config.number("mlp_ratio", 4.0),
              .epsilon = config.number("layer_norm_eps", 1e-5),
              .qkv_bias = config.flag("qkv_bias", true),
              .absolute = config.flag("use_absolute_embeddings", false),
              .activation = nn::activation_named(config.text("hidden_act", "gelu"), config.where())};
  shape.heads = config.integers("num_heads", shape.depths.size());
  constexpr std::int64_t most_stages = 16;
  if (shape.stages() > most_stages) throw Error({.what = "config key \"depths\" has too many stages", .where = config.where()});
  for (std::int64_t stage = 0; stage < shape.stages(); ++stage) {
    if (shape.width_of(stage) % shape.heads[static_cast<std::size_t>(stage)] != 0)
      throw Error({.what = "the width of stage " + std::to_string(stage) + " is not a multiple of its num_heads", .where = config.where()});
  }
  if (!(shape.mlp_ratio > 0) || shape.inner_of(0) < 1) throw Error({.what = "config key \"mlp_ratio\" is wrong", .where = config.where()});
  return shape;
}

constexpr PreNormNames swin_names = [] {
  PreNormNames names = vit_names;
  names.attention = "attention.self";
  return names;
}();

class Block {
 public:
  Block(const Shape& shape, const nn::Weights& w, std::int64_t stage, std::int64_t layer)
      : window_(shape.window),
        heads_(shape.heads[static_cast<std::size_t>(stage)]),
        block_({.width = shape.width_of(stage),
                .heads = heads_,
                .inner = shape.inner_of(stage),
                .epsilon = shape.epsilon,
                .activation = shape.activation,
                .qkv_bias = shape.qkv_bias,
                .prompt_position = 0},
               swin_names, w, layer, layer + 1 == shape.layers()),
        table_name_((w / "attention" / "self" / "relative_position_bias_table").path()),
        table_((w / "attention" / "self").tensor("relative_position_bias_table", {(2 * window_ - 1) * (2 * window_ - 1), heads_})) {}

  void operator()(nn::Tokens& tokens, const Windows& windows, const nn::Context& context) const {
    block_(tokens, context, [&](const nn::SelfAttention& attention, const at::Tensor& normed, const nn::Tokens& rows) {
      return attend(attention, normed, windows, rows, context);
    });
  }

  void list(nn::SiteTable& table) {
    block_.list(table);
    table.tensors.push_back({table_name_, &table_});
  }

 private:
  /// Queries, keys and values are computed once a row, prompts included, and then put into windows. A place without a patch holds a row of
  /// zeros before the three maps, and their biases behind them.
  at::Tensor attend(const nn::SelfAttention& attention, const at::Tensor& normed, const Windows& windows, const nn::Tokens& tokens,
                    const nn::Context& context) const {
    const std::int64_t batch = tokens.layout.batch(), prompts = tokens.prompt_count;
    const at::Tensor rows = windows.padded() ? at::cat({normed, at::zeros({1, normed.size(1)}, normed.options())}) : normed;
    std::vector<at::Tensor> qkv = attention.project(rows, rows, context);
    for (at::Tensor& part : qkv) part = windows.split(part, batch, prompts, tokens.released_window_order);
    const nn::Layout layout = nn::Layout::uniform(batch * windows.count(), prompts + windows.area());
    const at::Tensor attended =
        attention.attend(qkv, layout, layout, context, {.bias = bias_of(windows, prompts), .group_bias = windows.shift_mask(prompts)});
    return windows.join(attended, batch, prompts, tokens.released_window_order);
  }

  /// [H, P + area, P + area], 0 for prompts. Made once as long as the table is the same and does not learn.
  at::Tensor bias_of(const Windows& windows, std::int64_t prompts) const {
    if (kept_.bias.defined() && kept_.table.is_same(table_) && kept_.side == windows.side() && kept_.prompts == prompts) return kept_.bias;
    at::Tensor bias = table_.index_select(0, windows.relative_positions()).view({windows.area(), windows.area(), heads_});
    bias = bias.permute({2, 0, 1}).contiguous();
    if (prompts > 0) bias = at::constant_pad_nd(bias, {prompts, 0, prompts, 0});
    if (!table_.requires_grad()) kept_ = {table_, bias, windows.side(), prompts};
    return bias;
  }

  struct KeptBias {
    at::Tensor table, bias;
    std::int64_t side = 0, prompts = 0;
  };

  std::int64_t window_, heads_;
  PreNormBlock block_;
  std::string table_name_;
  at::Tensor table_;  ///< [(2w - 1)², heads], by the offset of query and key
  mutable KeptBias kept_;
};

/// Puts 2 x 2 patches beside each other and halves what that gives.
class Merging {
 public:
  Merging(const nn::Weights& w, std::int64_t width, std::int64_t layer)
      : norm_(w / "norm", 4 * width, default_epsilon), reduction_(w / "reduction", 4 * width, 2 * width, layer, false) {}

  void operator()(nn::Tokens& tokens, const Grid& grid, const nn::Context& context) const {
    const std::int64_t batch = tokens.layout.batch(), prompts = tokens.prompt_count, width = tokens.rows.size(1);
    const at::Tensor all = tokens.rows.view({batch, prompts + grid.patches(), width});
    at::Tensor map = all.narrow(1, prompts, grid.patches()).view({batch, grid.height, grid.width, width});
    if (grid.height % 2 != 0 || grid.width % 2 != 0) map = at::constant_pad_nd(map, {0, 0, 0, grid.width % 2, 0, grid.height % 2});
    const Grid merged = grid.merged();
    // [B, H, row, W, column, D]: the checkpoints' order is column by column.
    at::Tensor rows = map.reshape({batch, merged.height, 2, merged.width, 2, width})
                          .permute({0, 1, 3, 4, 2, 5})
                          .reshape({batch, merged.patches(), 4 * width});
    if (prompts > 0) rows = at::cat({all.narrow(1, 0, prompts).repeat({1, 1, 4}), rows}, 1);
    tokens.rows = reduction_(norm_(rows).view({-1, 4 * width}), context);
    tokens.layout = nn::Layout::uniform(batch, prompts + merged.patches());
    tokens.columns = merged.width;
  }

  void list(nn::SiteTable& table) {
    norm_.list(table);
    reduction_.list(table);
  }

 private:
  nn::LayerNorm norm_;
  nn::Linear reduction_;
};

class Swin final : public Backbone {
 public:
  Swin(const Config& config, const nn::Weights& w)
      : shape_(read_shape(config)),
        projection_((w / "embeddings" / "patch_embeddings" / "projection")
                        .tensor("weight", {shape_.width, shape_.channels, shape_.patch_height, shape_.patch_width})),
        projection_bias_((w / "embeddings" / "patch_embeddings" / "projection").tensor("bias", {shape_.width}, nn::Init::zeros)),
        embedding_norm_(w / "embeddings" / "norm", shape_.width, default_epsilon),
        norm_(w / "layernorm", shape_.width_of(shape_.stages() - 1), shape_.epsilon) {
    std::int64_t layer = 0;
    for (std::int64_t stage = 0; stage < shape_.stages(); ++stage) {
      const nn::Weights scope = w / "encoder" / "layers" / stage;
      Stage& own = stages_.emplace_back();
      for (std::int64_t block = 0; block < shape_.depths[static_cast<std::size_t>(stage)]; ++block)
        own.blocks.push_back(std::make_unique<Block>(shape_, scope / "blocks" / block, stage, layer++));
      if (stage + 1 < shape_.stages()) own.merging = std::make_unique<Merging>(scope / "downsample", shape_.width_of(stage), layer - 1);
    }
    const Grid grid{shape_.height / shape_.patch_height, shape_.image_width / shape_.patch_width};
    if (shape_.absolute) positions_ = (w / "embeddings").tensor("position_embeddings", {1, grid.patches(), shape_.width});
    report_ = w.finish();
    sites_.inputs = {&input_};
    sites_.tensors = {{"embeddings.patch_embeddings.projection.weight", &projection_},
                      {"embeddings.patch_embeddings.projection.bias", &projection_bias_}};
    if (shape_.absolute) sites_.tensors.push_back({"embeddings.position_embeddings", &positions_});
    embedding_norm_.list(sites_);
    for (Stage& stage : stages_) {
      for (auto& block : stage.blocks) block->list(sites_);
      if (stage.merging) stage.merging->list(sites_);
    }
    norm_.list(sites_);
    // A place in a window without a patch has the biases of a row that belongs to no example.
    for (nn::TensorSlot& slot : sites_.tensors)
      if (slot.name.find(".attention.self.") != std::string::npos && slot.name.ends_with(".bias")) slot.squares = nn::SlotSquares::none;
    info_ = {.architecture = "swin",
             .modality = Modality::image,
             .width = shape_.width_of(shape_.stages() - 1),
             .layers = shape_.layers(),
             .heads = shape_.heads.back(),
             .has_pooler = true,
             .has_class_token = false,
             .usual_pooling = Pooling::mean,
             .max_length = grid_of(shape_.height, shape_.image_width).patches(),
             .image_height = shape_.height,
             .image_width = shape_.image_width,
             .image_channels = shape_.channels};
  }

  ModelOutputs forward(const ModelInputs& inputs, const nn::Context& context) override {
    at::Tensor pixels = inputs.pixel_values;
    if (input_.hook) pixels = input_.hook->apply(pixels, context);
    Grid grid = grid_of(pixels.size(2), pixels.size(3));
    nn::Tokens tokens = embed(pixels, grid, context);
    for (const Stage& stage : stages_) {
      for (std::size_t number = 0; number < stage.blocks.size(); ++number) {
        const auto windows =
            kept_windows(grid, number % 2 == 1 && grid.shifts(shape_.window) ? shape_.window / 2 : 0, tokens.rows.device());
        nn::run_block(tokens, context, [block = stage.blocks[number].get(), windows](nn::Tokens& inner, const nn::Context& with) {
          (*block)(inner, *windows, with);
        });
      }
      if (!stage.merging) continue;
      (*stage.merging)(tokens, grid, context);
      grid = grid.merged();
    }
    ModelOutputs outputs{.last_hidden_state = norm_(tokens.rows), .layout = tokens.layout};
    outputs.pooler_output = nn::mean_rows(outputs.last_hidden_state, tokens.layout);
    return outputs;
  }

  /// Pictures of any size.
  TensorMap forward_named(const TensorMap& inputs, const nn::Context& context) override {
    refuse_unknown_inputs(inputs, {"pixel_values"});
    ModelInputs batch;
    batch.pixel_values =
        picture_input(inputs, shape_.channels, shape_.absolute ? shape_.height : 0, shape_.absolute ? shape_.image_width : 0);
    const ModelOutputs outputs = forward(batch, context);
    return {{"last_hidden_state", outputs.last_hidden_state.view({outputs.layout.batch(), -1, info_.width})},
            {"pooler_output", outputs.pooler_output}};
  }

  /// Tokens beyond those of a picture are prompts, which every window of every block sees.
  std::int64_t macs(std::int64_t tokens, bool) const override {
    const std::int64_t prompts = std::max<std::int64_t>(tokens - info_.max_length, 0);
    Grid grid = grid_of(shape_.height, shape_.image_width);
    std::int64_t total = grid.patches() * shape_.channels * shape_.patch_height * shape_.patch_width * shape_.width;
    for (std::int64_t stage = 0; stage < shape_.stages(); ++stage) {
      const std::int64_t width = shape_.width_of(stage), rows = prompts + grid.patches();
      const std::int64_t side = grid.side(shape_.window), windows = ((grid.height + side - 1) / side) * ((grid.width + side - 1) / side);
      const std::int64_t seen = prompts + side * side;
      total += shape_.depths[static_cast<std::size_t>(stage)] *
               (4 * rows * width * width + 2 * windows * seen * seen * width + 2 * rows * width * shape_.inner_of(stage));
      if (stage + 1 == shape_.stages()) break;
      grid = grid.merged();
      total += (prompts + grid.patches()) * 8 * width * width;
    }
    return total;
  }

  std::int64_t rows_at(std::string_view name, std::int64_t layer, std::int64_t tokens) const override {
    const std::int64_t prompts = std::max<std::int64_t>(tokens - info_.max_length, 0);
    Grid grid = grid_of(shape_.height, shape_.image_width);
    std::int64_t end = 0;  // the first block of the next stage
    for (const std::int64_t depth : shape_.depths) {
      end += depth;
      if (layer < end) break;
      grid = grid.merged();
    }
    if (name.find(".downsample.") != std::string_view::npos) grid = grid.merged();
    return prompts + grid.patches();
  }

 private:
  struct Stage {
    std::vector<std::unique_ptr<Block>> blocks;
    std::unique_ptr<Merging> merging;  ///< behind all stages but the last
  };

  Grid grid_of(std::int64_t height, std::int64_t width) const {
    return {(height + shape_.patch_height - 1) / shape_.patch_height, (width + shape_.patch_width - 1) / shape_.patch_width};
  }

  /// Pictures of one size need the same few in every step. A model does not change its device between them.
  std::shared_ptr<const Windows> kept_windows(const Grid& grid, std::int64_t shift, at::Device device) {
    constexpr std::size_t most = 64;
    if (windows_.size() > most) windows_.clear();
    auto& windows = windows_[{grid.height, grid.width, shift}];
    if (!windows)
      windows = std::make_shared<const Windows>(grid.height, grid.width, grid.side(shape_.window), shift, shape_.window, device);
    return windows;
  }

  /// Incomplete patches at the lower and right edge are filled with zeros.
  nn::Tokens embed(const at::Tensor& pixels, const Grid& grid, const nn::Context& context) const {
    const std::int64_t below = grid.height * shape_.patch_height - pixels.size(2), right = grid.width * shape_.patch_width - pixels.size(3);
    const at::Tensor whole = below > 0 || right > 0 ? at::constant_pad_nd(pixels, {0, right, 0, below}) : pixels;
    const at::Tensor patches = patches_of(whole, shape_.patch_height, shape_.patch_width);
    at::Tensor x =
        embedding_norm_(nn::frozen_matrix(patches, projection_.view({shape_.width, -1}), projection_bias_, context.matmul_precision));
    if (shape_.absolute) x = x + positions_;
    return {.rows = x.view({-1, shape_.width}), .layout = nn::Layout::uniform(pixels.size(0), grid.patches()), .columns = grid.width};
  }

  Shape shape_;
  nn::InputSite input_{.name = "pixel_values"};
  at::Tensor projection_, projection_bias_, positions_;
  nn::LayerNorm embedding_norm_;
  std::vector<Stage> stages_;
  nn::LayerNorm norm_;
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, std::shared_ptr<const Windows>> windows_;  ///< by height, width and shift
};

std::unique_ptr<Backbone> make(const Config& config, const nn::Weights& weights) {
  return std::make_unique<Swin>(config, weights);
}

}  // namespace

Architecture swin_architecture() {
  return {"swin", {"", "swin."}, "embeddings.patch_embeddings.projection.weight", make};
}

}  // namespace mmtune::backbones
