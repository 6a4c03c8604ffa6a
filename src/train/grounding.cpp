#include "train/grounding.h"

#include <algorithm>
#include <cmath>

namespace mmtune::train {

namespace {

/// How a side of the picture is stretched: left and right by the width, top and bottom by the height.
double stretch(std::size_t corner, double width, double height, const GroundingShape& shape) {
  return shape.picture_side / (corner % 2 == 0 ? width : height);
}

}  // namespace

BoxBins box_to_bins(const BoxCorners& box, double width, double height, const GroundingShape& shape) {
  BoxBins bins{};
  for (std::size_t i = 0; i < box.size(); ++i) {
    const double share = box[i] * stretch(i, width, height, shape) / shape.largest_side;
    // Halves go to the even number, as in the released code.
    bins[i] = static_cast<std::int64_t>(std::nearbyint(share * static_cast<double>(shape.bins - 1)));
  }
  return bins;
}

BoxCorners bins_to_box(const BoxBins& bins, double width, double height, const GroundingShape& shape) {
  BoxCorners box{};
  for (std::size_t i = 0; i < bins.size(); ++i)
    box[i] = static_cast<double>(bins[i]) / static_cast<double>(shape.bins - 1) * shape.largest_side / stretch(i, width, height, shape);
  return box;
}

bool boxes_agree(const BoxCorners& predicted, const BoxCorners& truth, double least) {
  const double width = std::min(predicted[2], truth[2]) - std::max(predicted[0], truth[0]);
  const double height = std::min(predicted[3], truth[3]) - std::max(predicted[1], truth[1]);
  if (width <= 0 || height <= 0) return false;
  const auto area = [](const BoxCorners& box) { return (box[2] - box[0]) * (box[3] - box[1]); };
  const double shared = width * height;
  constexpr double not_zero = 1e-6;
  return shared / (area(predicted) + area(truth) - shared + not_zero) >= least;
}

}  // namespace mmtune::train
