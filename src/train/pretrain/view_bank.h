#pragma once
// The bank of views: every picture decoded once, a number of views drawn of it, the teacher's features of each, all on disk. Training
// then reads rows of mapped files.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "train/pretrain/efficientnet_lite.h"
#include "train/pretrain/pictures.h"
#include "train/pretrain/recipe.h"

namespace mmtune::train {

class ViewBank {
 public:
  struct Sources {
    const PictureList* list = nullptr;
    const EfficientNetLite* teacher = nullptr;  ///< null: no features
    const PretrainRecipe* recipe = nullptr;
    std::function<bool()> stop;  ///< asked between the parts
  };
  /// Draws what is missing in `folder` and opens it. The bank is kept in parts, each written atomically, so that an interrupted pass goes
  /// on where it stopped. Parts of other pictures, views, seeds or teachers are drawn anew. Returns null where `stop` ended the pass.
  /// Throws Error naming the picture that cannot be read.
  static std::unique_ptr<ViewBank> make(const std::filesystem::path& folder, const Sources& sources);

  std::int64_t pictures() const { return pictures_; }
  std::int64_t views() const { return views_; }
  bool has_features() const { return has_features_; }
  /// View `view[i]` of picture `picture[i]`: [B, 3, S, S] uint8.
  at::Tensor gather_views(const std::vector<std::int64_t>& picture, const std::vector<std::int64_t>& view) const;
  /// The teacher's features of the same, every one with mean 0 and deviation 1 over all pictures: of the whole view [B, F] float32.
  at::Tensor gather_features(const std::vector<std::int64_t>& picture, const std::vector<std::int64_t>& view) const;
  /// And of its cells, row by row: [B, C, R] float32, the feature map projected to R random directions.
  at::Tensor gather_cells(const std::vector<std::int64_t>& picture, const std::vector<std::int64_t>& view) const;

 private:
  struct Part {
    std::shared_ptr<const io::SafetensorsFile> file;
    at::Tensor views;     ///< [n, K, 3, S, S] uint8, mapped
    at::Tensor features;  ///< [n, K, F] float16, mapped
    at::Tensor cells;     ///< [n, K, C, R] float16, mapped
  };
  /// Mean and deviation of the last axis: [F] each.
  struct Statistics {
    at::Tensor mean, deviation;
  };
  Statistics measure(at::Tensor Part::*tensor) const;
  at::Tensor gather(at::Tensor Part::*tensor, const std::vector<std::int64_t>& picture, const std::vector<std::int64_t>& view) const;
  static Part open_part(const std::filesystem::path& path, const std::string& identity);

  std::vector<Part> parts_;
  std::int64_t pictures_ = 0, views_ = 0;
  bool has_features_ = false;
  Statistics feature_statistics_, cell_statistics_;
};

}  // namespace mmtune::train
