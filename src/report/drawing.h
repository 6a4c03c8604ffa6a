#pragma once
// Small pictures of rectangles, lines, discs and words, written as SVG or rasterised to PNG. Units are pixels, y grows downwards.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace mmtune::report {

struct Colour {
  std::uint8_t red = 0, green = 0, blue = 0;
};
/// "#rrggbb".
std::string to_hex(Colour colour);

struct Box {
  double x, y, width, height;
  Colour fill;
  std::string tip = {};  ///< shown by browsers where the pointer rests
};
struct Segment {
  double x1, y1, x2, y2, width;
  Colour colour;
};
struct Disc {
  double x, y, radius;
  Colour fill;
  std::string tip = {};
};
enum class Anchor { start, middle, end };
struct Words {
  double x, y;  ///< of the base line's start, middle or end
  double size;  ///< of the letters' height, roughly
  std::string text;
  Colour colour;
  Anchor anchor = Anchor::start;
  bool upwards = false;  ///< written from bottom to top
};

class Drawing {
 public:
  Drawing(double width, double height) : width_(width), height_(height) {}
  template <class Shape>
  void add(Shape shape) {
    shapes_.emplace_back(std::move(shape));
  }
  /// Puts the shapes of `other` on top, where they stand there.
  void append(const Drawing& other) { shapes_.insert(shapes_.end(), other.shapes_.begin(), other.shapes_.end()); }
  double width() const { return width_; }
  double height() const { return height_; }

  /// A whole SVG file on white, or with `inside_page` an element of a page, whose words take the page's colour. `label`: for people who
  /// hear the page.
  std::string svg(std::string_view label, bool inside_page = false) const;
  /// A PNG on white, `scale` pixels a unit. Words come out in the capitals of a font of five pixels; what it lacks is a box. Throws Error
  /// where the picture would be larger than 8192 pixels a side.
  std::string png(double scale = 2.0) const;

 private:
  double width_, height_;
  std::vector<std::variant<Box, Segment, Disc, Words>> shapes_;
};

/// Light to dark as `share` goes from 0 to 1; even steps look even, and grey print keeps the order.
Colour heat(double share);
/// Colours of groups: neighbours differ in hue.
Colour group_colour(std::size_t group);

}  // namespace mmtune::report
