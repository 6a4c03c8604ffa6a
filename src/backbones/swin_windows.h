#pragma once
// The geometry of Swin's window attention: a feature map padded to whole windows, shifted cyclically and cut (Liu et al. 2021, arXiv
// 2103.14030), with prompt rows in front of the patches (each window sees all prompts of its picture).

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace mmtune::backbones {

class Windows {
 public:
  /// Windows of `side` x `side` over `height` x `width` patches; the map is moved up and to the left by `shift` first. The tables of
  /// relative positions were made for windows of `table_side` >= side. The rows are on `device`.
  Windows(std::int64_t height, std::int64_t width, std::int64_t side, std::int64_t shift, std::int64_t table_side,
          at::Device device = at::kCPU);

  std::int64_t count() const { return count_; }  ///< windows of a picture
  std::int64_t side() const { return side_; }
  std::int64_t area() const { return area_; }  ///< places of a window
  /// Whether some places hold no patch.
  bool padded() const { return count_ * area_ != patches_; }

  /// Rows [B·(P + H·W), D] → [B·count·(P + area), D], the pictures' windows behind each other. Where padded() there is one row more: what
  /// stands in the places without a patch.
  /// `mixed`: window i of the batch gets the prompts of picture i mod B (nn::Tokens::released_window_order).
  at::Tensor split(const at::Tensor& rows, std::int64_t batch, std::int64_t prompts, bool mixed = false) const;
  /// The way back; a prompt becomes the mean over its picture's windows, and places without a patch are dropped.
  at::Tensor join(const at::Tensor& windows, std::int64_t batch, std::int64_t prompts, bool mixed = false) const;

  /// [count, P + area, P + area]: -100 between places that the shift has brought together from different ends of the map, 0 elsewhere;
  /// undefined without a shift.
  at::Tensor shift_mask(std::int64_t prompts) const;
  /// The table's entry of every pair of places, [area·area].
  const at::Tensor& relative_positions() const { return relative_positions_; }

 private:
  at::Tensor make_shift_mask() const;

  std::int64_t patches_, side_, area_, down_, across_, count_, shift_;
  at::Tensor patch_of_;  ///< [count·area]: the patch of every place; `patches_` where there is none
  at::Tensor place_of_;  ///< [patches]
  at::Tensor shift_mask_, relative_positions_;
};

}  // namespace mmtune::backbones
