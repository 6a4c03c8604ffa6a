#pragma once
// How ViLT turns pictures of any size into rows: patches, the position table stretched to each picture's own grid, and which patches are
// taken (Kim et al. 2021, arXiv 2102.03334). The released code takes them in a random order, which carries no information; here they keep
// the order of the picture's lines.

#include <cstdint>
#include <utility>
#include <vector>

#include "backbones/config.h"
#include "nn/sites.h"
#include "nn/weights.h"

namespace mmtune::backbones {

struct PatchShape {
  std::int64_t width = 0;  ///< D
  std::int64_t channels = 3, height = 0, image_width = 0, patch_height = 0, patch_width = 0;
  std::int64_t most = 0;  ///< patches taken of a picture; 0: all

  std::int64_t rows() const { return height / patch_height; }         ///< of the grid that positions were learned for
  std::int64_t columns() const { return image_width / patch_width; }  ///< likewise
  std::int64_t patch_size() const { return channels * patch_height * patch_width; }
};
/// image_size, patch_size, num_channels, max_image_length of config.json. Throws Error where no patch fits.
PatchShape read_patch_shape(const Config& config, std::int64_t width);

/// Which patches of a batch are taken, by the lines of each picture.
struct PatchSelection {
  std::vector<std::int64_t> patches;  ///< b·H·W + r·W + c of every one, H × W being the batch's grid
  std::vector<std::int64_t> counts;   ///< of each picture
  std::vector<bool> visible;          ///< of each patch: false for those that only fill up a batch
};

/// `grids`: rows and columns of each picture in a batch whose largest grid is `rows` × `columns`. Of a picture with more than `most`
/// patches (0: no limit) so many are taken, evenly spread. `padded`: pictures with fewer than the others are filled up to the same number
/// with patches of the margin.
PatchSelection select_patches(const std::vector<std::pair<std::int64_t, std::int64_t>>& grids, std::int64_t rows, std::int64_t columns,
                              std::int64_t most, bool padded);

/// What stands for the pictures of a batch, before modality types are added.
struct PictureRows {
  at::Tensor class_row;  ///< [1, D], the same for all
  at::Tensor patches;    ///< [N, D], picture after picture
  PatchSelection selection;
};

class ViltPictures {
 public:
  /// `embeddings`: the scope of cls_token, position_embeddings and patch_embeddings.projection.
  ViltPictures(const PatchShape& shape, const nn::Weights& embeddings);
  /// pixels [B, C, H, W]; `sizes` [B] in pixels, or empty where all pictures fill it. Throws Error on a size without a patch or beyond the
  /// pixels.
  PictureRows operator()(const at::Tensor& pixels, const std::vector<std::pair<std::int64_t, std::int64_t>>& sizes, bool padded,
                         const nn::Context& context) const;
  void list(nn::SiteTable& table);
  const PatchShape& shape() const { return shape_; }

 private:
  /// The table stretched to rows × columns (bilinear, corners on corners): [rows·columns, D].
  at::Tensor positions(std::int64_t rows, std::int64_t columns) const;

  PatchShape shape_;
  std::string path_;
  at::Tensor class_token_, positions_, projection_, projection_bias_;
};

}  // namespace mmtune::backbones
