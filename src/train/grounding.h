#pragma once
// Boxes in pictures as OFA's location tokens, and the metric of grounding.

#include <array>
#include <cstdint>

namespace mmtune::train {

/// Left, top, right, bottom in pixels.
using BoxCorners = std::array<double, 4>;
using BoxBins = std::array<std::int64_t, 4>;

struct GroundingShape {
  double picture_side = 480;  ///< pictures are resized to a square of this
  double largest_side = 512;  ///< that bins divide
  std::int64_t bins = 1000;
};

/// The bins of a box in a picture of width × height pixels.
BoxBins box_to_bins(const BoxCorners& box, double width, double height, const GroundingShape& shape = {});
/// And back, in the picture's own pixels.
BoxCorners bins_to_box(const BoxBins& bins, double width, double height, const GroundingShape& shape = {});
/// Whether the two overlap by at least `least`, as intersection over union; boxes that do not overlap on both sides never do.
bool boxes_agree(const BoxCorners& predicted, const BoxCorners& truth, double least = 0.5);

}  // namespace mmtune::train
