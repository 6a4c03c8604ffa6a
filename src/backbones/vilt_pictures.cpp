#include "backbones/vilt_pictures.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "backbones/patches.h"
#include "core/error.h"
#include "nn/layers.h"

namespace mmtune::backbones {

PatchShape read_patch_shape(const Config& config, std::int64_t width) {
  const auto [height, image_width] = config.size("image_size", 384);
  const auto [patch_height, patch_width] = config.size("patch_size", 32);
  PatchShape shape{.width = width,
                   .channels = config.integer("num_channels", 3),
                   .height = height,
                   .image_width = image_width,
                   .patch_height = patch_height,
                   .patch_width = patch_width};
  // Any number below 1 says that there is no limit.
  if (config.number("max_image_length", -1) > 0) shape.most = config.integer("max_image_length");
  if (shape.rows() < 1 || shape.columns() < 1) throw Error({.what = "patch_size is larger than image_size", .where = config.where()});
  return shape;
}

PatchSelection select_patches(const std::vector<std::pair<std::int64_t, std::int64_t>>& grids, std::int64_t rows, std::int64_t columns,
                              std::int64_t most, bool padded) {
  std::int64_t longest = 0;
  for (const auto& [height, width] : grids) longest = std::max(longest, height * width);
  if (most > 0) longest = std::min(longest, most);
  PatchSelection selection;
  for (std::size_t b = 0; b < grids.size(); ++b) {
    const auto [height, width] = grids[b];
    const std::int64_t base = static_cast<std::int64_t>(b) * rows * columns, all = height * width, taken = std::min(all, longest);
    for (std::int64_t i = 0; i < taken; ++i) {
      const std::int64_t patch = i * all / taken;
      selection.patches.push_back(base + patch / width * columns + patch % width);
    }
    selection.visible.insert(selection.visible.end(), static_cast<std::size_t>(taken), true);
    selection.counts.push_back(padded ? longest : taken);
    if (!padded || taken == longest) continue;
    // A margin exists: another picture has more patches. Where it has fewer than are missing, it is gone through again.
    std::vector<std::int64_t> margin;
    for (std::int64_t patch = 0; patch < rows * columns; ++patch)
      if (patch / columns >= height || patch % columns >= width) margin.push_back(base + patch);
    for (std::int64_t i = taken; i < longest; ++i) selection.patches.push_back(margin[static_cast<std::size_t>(i - taken) % margin.size()]);
    selection.visible.insert(selection.visible.end(), static_cast<std::size_t>(longest - taken), false);
  }
  return selection;
}

ViltPictures::ViltPictures(const PatchShape& shape, const nn::Weights& w)
    : shape_(shape),
      path_(w.path()),
      class_token_(w.tensor("cls_token", {1, 1, shape.width})),
      positions_(w.tensor("position_embeddings", {1, shape.rows() * shape.columns() + 1, shape.width})),
      projection_(
          (w / "patch_embeddings" / "projection").tensor("weight", {shape.width, shape.channels, shape.patch_height, shape.patch_width})),
      projection_bias_((w / "patch_embeddings" / "projection").tensor("bias", {shape.width}, nn::Init::zeros)) {}

void ViltPictures::list(nn::SiteTable& table) {
  table.tensors.push_back({path_ + ".cls_token", &class_token_});
  table.tensors.push_back({path_ + ".position_embeddings", &positions_});
  table.tensors.push_back({path_ + ".patch_embeddings.projection.weight", &projection_});
  table.tensors.push_back({path_ + ".patch_embeddings.projection.bias", &projection_bias_});
}

at::Tensor ViltPictures::positions(std::int64_t rows, std::int64_t columns) const {
  at::Tensor table = positions_.select(0, 0).slice(0, 1);
  if (rows == shape_.rows() && columns == shape_.columns()) return table;
  const at::Tensor grid = table.t().reshape({1, shape_.width, shape_.rows(), shape_.columns()});
  return at::upsample_bilinear2d(grid, {rows, columns}, true).view({shape_.width, rows * columns}).t();
}

PictureRows ViltPictures::operator()(const at::Tensor& pixels, const std::vector<std::pair<std::int64_t, std::int64_t>>& sizes, bool padded,
                                     const nn::Context& context) const {
  const std::int64_t batch = pixels.size(0), rows = pixels.size(2) / shape_.patch_height, columns = pixels.size(3) / shape_.patch_width;
  MMTUNE_ASSERT(sizes.empty() || static_cast<std::int64_t>(sizes.size()) == batch);
  std::vector<std::pair<std::int64_t, std::int64_t>> grids(static_cast<std::size_t>(batch), {rows, columns});
  for (std::size_t b = 0; b < sizes.size(); ++b) grids[b] = {sizes[b].first / shape_.patch_height, sizes[b].second / shape_.patch_width};
  for (const auto& [height, width] : grids)
    if (height < 1 || width < 1 || height > rows || width > columns)
      throw Error({.what = "a picture has no patch, or is larger than the pixels given",
                   .where = "pixel_values",
                   .expected = "1 to " + std::to_string(rows) + " by 1 to " + std::to_string(columns) + " patches",
                   .got = std::to_string(height) + " by " + std::to_string(width)});
  PictureRows result{.class_row = class_token_.select(0, 0) + positions_.select(0, 0).slice(0, 0, 1),
                     .patches = {},
                     .selection = select_patches(grids, rows, columns, shape_.most, padded)};
  const std::vector<std::int64_t>& taken = result.selection.patches;
  const bool everything = static_cast<std::int64_t>(taken.size()) == batch * rows * columns &&
                          std::all_of(grids.begin(), grids.end(), [&](const auto& grid) { return grid == grids.front(); });

  at::Tensor patches = patches_of(pixels, shape_.patch_height, shape_.patch_width).view({batch * rows * columns, -1});
  if (!everything) patches = patches.index_select(0, nn::beside(at::tensor(taken, at::kLong), pixels));
  const at::Tensor embedded = nn::frozen_matrix(patches, projection_.view({shape_.width, -1}), projection_bias_, context.matmul_precision);
  if (everything) {
    result.patches = (embedded.view({batch, rows * columns, -1}) + positions(rows, columns)).view({-1, shape_.width});
    return result;
  }

  // One stretched table for every size that occurs, and a row of zeros for the margins.
  std::vector<at::Tensor> tables = {at::zeros({1, shape_.width}, embedded.options())};
  std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> first_row;
  std::int64_t next = 1;
  for (const auto& grid : grids) {
    if (!first_row.emplace(grid, next).second) continue;
    tables.push_back(positions(grid.first, grid.second));
    next += grid.first * grid.second;
  }
  std::vector<std::int64_t> places;
  for (std::size_t i = 0; i < taken.size(); ++i) {
    const std::int64_t patch = taken[i] % (rows * columns);
    const auto& grid = grids[static_cast<std::size_t>(taken[i] / (rows * columns))];
    places.push_back(result.selection.visible[i] ? first_row.at(grid) + patch / columns * grid.second + patch % columns : 0);
  }
  result.patches = embedded + at::cat(tables).index_select(0, nn::beside(at::tensor(places, at::kLong), pixels));
  return result;
}

}  // namespace mmtune::backbones
