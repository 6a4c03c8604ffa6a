#pragma once
// A sound as a page shows it: the outline of its samples.

#include <cstdint>
#include <span>
#include <string>

namespace mmtune::report {

/// Inline SVG: of every column's share of the samples the least and the greatest, scaled to the largest of all, and how long the sound is.
/// It is drawn in the colour --ink of the page. `label` is plain text, for those who do not see it.
std::string waveform_svg(std::span<const float> samples, std::int64_t rate, const std::string& label);

}  // namespace mmtune::report
