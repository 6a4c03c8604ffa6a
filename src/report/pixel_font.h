#pragma once
// Capitals, digits and a few signs of five pixels, for labels in pictures that are made without a font library.

#include <array>
#include <string_view>

namespace mmtune::report {

/// The rows of a glyph, '#' for ink; all rows of the same width. Letters of either case have the capital's; anything unknown is a box.
std::array<std::string_view, 5> glyph(char character);

}  // namespace mmtune::report
