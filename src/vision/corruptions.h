#pragma once
// Corruptions of pictures, to see how a model does on worse ones. They are ours: their names and severities follow the habit of the
// published benchmarks, their numbers do not, and results are not to be compared with those.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "vision/image.h"

namespace mmtune::vision {

enum class CorruptionKind {
  gaussian_noise,
  shot_noise,     ///< noise whose strength grows with the square root of the brightness
  impulse_noise,  ///< single values that are black or white
  defocus_blur,   ///< a disc
  gaussian_blur,
  motion_blur,  ///< a line whose direction is drawn
  brightness,   ///< brighter
  contrast,     ///< less of it
  saturation,   ///< less of it, up to grey
  jpeg,         ///< our own encoder, and back
  pixelate,     ///< fewer, larger pixels
};

struct Corruption {
  CorruptionKind kind = CorruptionKind::gaussian_noise;
  int severity = 1;  ///< 1 to 5
  bool operator==(const Corruption&) const = default;
};

/// Reads "NAME:SEVERITY". Throws UsageError naming `where`: an unknown name (with the nearest), a severity that is not 1 to 5.
Corruption parse_corruption(std::string_view text, const std::string& where);
/// As parse_corruption reads it.
std::string describe(const Corruption& corruption);
/// All names.
std::vector<std::string> corruption_names();

/// A picture of the same size. The same picture, corruption and seed give the same result on every machine but for rounding of a kernel.
/// Widths of blurs go with the shorter side.
Image corrupted(const Image& image, const Corruption& corruption, std::uint64_t seed);

}  // namespace mmtune::vision
