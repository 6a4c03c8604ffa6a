#include "report/drawing.h"

#include <png.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "report/html.h"
#include "report/pixel_font.h"

namespace mmtune::report {

namespace {

constexpr double widest_picture = 8192;
constexpr double glyph_rows = 5;

std::string attribute(std::string_view name, double value) {
  std::string text = number(value, 2);
  return " " + std::string(name) + "=\"" + text + "\"";
}

std::string tipped(const std::string& element, const std::string& tip) {
  return tip.empty() ? "/>" : "><title>" + escape_html(tip) + "</title></" + element + ">";
}

struct ToSvg {
  bool inside_page;
  std::string operator()(const Box& box) const {
    return "<rect" + attribute("x", box.x) + attribute("y", box.y) + attribute("width", box.width) + attribute("height", box.height) +
           " fill=\"" + to_hex(box.fill) + "\"" + tipped("rect", box.tip);
  }
  std::string operator()(const Segment& line) const {
    return "<line" + attribute("x1", line.x1) + attribute("y1", line.y1) + attribute("x2", line.x2) + attribute("y2", line.y2) +
           attribute("stroke-width", line.width) + " stroke=\"" + to_hex(line.colour) + "\"/>";
  }
  std::string operator()(const Disc& disc) const {
    return "<circle" + attribute("cx", disc.x) + attribute("cy", disc.y) + attribute("r", disc.radius) + " fill=\"" + to_hex(disc.fill) +
           "\"" + tipped("circle", disc.tip);
  }
  std::string operator()(const Words& words) const {
    const char* const anchor = words.anchor == Anchor::start ? "start" : words.anchor == Anchor::middle ? "middle" : "end";
    std::string text = "<text" + attribute("x", words.x) + attribute("y", words.y) + " text-anchor=\"" + anchor + "\"";
    if (!inside_page) text += attribute("font-size", words.size * 1.4) + " fill=\"" + to_hex(words.colour) + "\"";
    if (words.upwards) text += " transform=\"rotate(-90 " + number(words.x, 2) + " " + number(words.y, 2) + ")\"";
    return text + ">" + escape_html(words.text) + "</text>";
  }
};

/// An RGB picture that shapes are painted on; edges are hard.
class Canvas {
 public:
  Canvas(double width, double height, double scale)
      : scale_(scale),
        columns_(static_cast<int>(std::ceil(width * scale))),
        rows_(static_cast<int>(std::ceil(height * scale))),
        pixels_(static_cast<std::size_t>(columns_) * static_cast<std::size_t>(rows_) * 3, 255) {}

  void operator()(const Box& box) {
    fill(box.x * scale_, box.y * scale_, (box.x + box.width) * scale_, (box.y + box.height) * scale_, box.fill);
  }
  void operator()(const Segment& line) {
    const double length = std::hypot(line.x2 - line.x1, line.y2 - line.y1), thick = std::max(line.width * scale_, 1.0);
    const int steps = std::max(1, static_cast<int>(std::ceil(length * scale_ * 2)));
    for (int i = 0; i <= steps; ++i) {
      const double at = static_cast<double>(i) / steps;
      const double x = (line.x1 + at * (line.x2 - line.x1)) * scale_, y = (line.y1 + at * (line.y2 - line.y1)) * scale_;
      fill(x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2, line.colour);
    }
  }
  void operator()(const Disc& disc) {
    const double x = disc.x * scale_, y = disc.y * scale_, radius = disc.radius * scale_;
    for (int row = static_cast<int>(y - radius); row <= static_cast<int>(y + radius); ++row) {
      const double off = row + 0.5 - y, half = radius * radius - off * off;
      if (half <= 0) continue;
      fill(x - std::sqrt(half), row, x + std::sqrt(half), row + 1, disc.fill);
    }
  }
  void operator()(const Words& words) {
    const double pixel = std::max(words.size / glyph_rows * scale_, 1.0);
    double length = 0;
    for (const char c : words.text) length += (static_cast<double>(glyph(c)[0].size()) + 1) * pixel;
    double along = words.anchor == Anchor::start ? 0 : words.anchor == Anchor::middle ? -length / 2 : -length;
    const double x = words.x * scale_, y = words.y * scale_;
    for (const char c : words.text) {
      const auto rows = glyph(c);
      for (std::size_t r = 0; r < rows.size(); ++r)
        for (std::size_t k = 0; k < rows[r].size(); ++k) {
          if (rows[r][k] != '#') continue;
          const double a = along + static_cast<double>(k) * pixel, up = (glyph_rows - static_cast<double>(r)) * pixel;
          if (words.upwards) {
            fill(x - up, y - a - pixel, x - up + pixel, y - a, words.colour);
          } else {
            fill(x + a, y - up, x + a + pixel, y - up + pixel, words.colour);
          }
        }
      along += (static_cast<double>(rows[0].size()) + 1) * pixel;
    }
  }

  std::string png() const {
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    image.width = static_cast<png_uint_32>(columns_);
    image.height = static_cast<png_uint_32>(rows_);
    image.format = PNG_FORMAT_RGB;
    png_alloc_size_t size = 0;
    std::string bytes;
    bool done = png_image_write_to_memory(&image, nullptr, &size, 0, pixels_.data(), 0, nullptr) != 0;
    if (done) {
      bytes.resize(size);
      done = png_image_write_to_memory(&image, bytes.data(), &size, 0, pixels_.data(), 0, nullptr) != 0;
      bytes.resize(size);
    }
    const std::string reason = image.message;
    png_image_free(&image);
    if (!done) throw Error({.what = "cannot encode a picture: " + printable(reason)});
    return bytes;
  }

 private:
  void fill(double left, double top, double right, double bottom, Colour colour) {
    const int x0 = std::clamp(static_cast<int>(std::lround(left)), 0, columns_),
              x1 = std::clamp(static_cast<int>(std::lround(right)), 0, columns_);
    const int y0 = std::clamp(static_cast<int>(std::lround(top)), 0, rows_),
              y1 = std::clamp(static_cast<int>(std::lround(bottom)), 0, rows_);
    for (int y = y0; y < y1; ++y)
      for (int x = x0; x < x1; ++x) {
        const std::size_t at = (static_cast<std::size_t>(y) * static_cast<std::size_t>(columns_) + static_cast<std::size_t>(x)) * 3;
        pixels_[at] = colour.red;
        pixels_[at + 1] = colour.green;
        pixels_[at + 2] = colour.blue;
      }
  }

  double scale_;
  int columns_, rows_;
  std::vector<std::uint8_t> pixels_;
};

}  // namespace

std::string to_hex(Colour colour) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text = "#";
  for (const unsigned part : {unsigned{colour.red}, unsigned{colour.green}, unsigned{colour.blue}}) {
    text += digits[part >> 4U];
    text += digits[part & 15U];
  }
  return text;
}

std::string Drawing::svg(std::string_view label, bool inside_page) const {
  std::string text = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + number(width_, 0) + " " + number(height_, 0) +
                     "\" width=\"" + number(width_, 0) + "\" height=\"" + number(height_, 0) + "\" role=\"img\" aria-label=\"" +
                     escape_html(label) + "\"";
  if (!inside_page) text += " font-family=\"system-ui, sans-serif\"";
  text += ">";
  if (!inside_page) text += "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>";
  for (const auto& shape : shapes_) text += std::visit(ToSvg{inside_page}, shape) + "\n";
  return text + "</svg>\n";
}

std::string Drawing::png(double scale) const {
  if (width_ * scale > widest_picture || height_ * scale > widest_picture)
    throw Error({.what = "the picture would be too large", .expected = "at most 8192 pixels a side", .hint = "write SVG instead"});
  Canvas canvas(width_, height_, scale);
  for (const auto& shape : shapes_) std::visit(canvas, shape);
  return canvas.png();
}

Colour heat(double share) {
  // Lightness falls evenly; hue goes from a pale yellow over green to a dark blue.
  constexpr std::array<std::array<double, 3>, 5> stops = {{{253, 250, 220}, {186, 222, 172}, {88, 176, 156}, {38, 108, 140}, {24, 42, 92}}};
  const double at = std::clamp(std::isfinite(share) ? share : 0.0, 0.0, 1.0) * (stops.size() - 1);
  const auto low = std::min(static_cast<std::size_t>(at), stops.size() - 2);
  const double part = at - static_cast<double>(low);
  const auto mixed = [&](std::size_t c) {
    return static_cast<std::uint8_t>(std::lround(stops[low][c] * (1 - part) + stops[low + 1][c] * part));
  };
  return {mixed(0), mixed(1), mixed(2)};
}

Colour group_colour(std::size_t group) {
  constexpr std::array<Colour, 8> colours = {
      {{47, 111, 181}, {214, 96, 31}, {62, 145, 72}, {160, 70, 160}, {190, 150, 20}, {200, 60, 90}, {40, 150, 160}, {110, 110, 110}}};
  return colours[group % colours.size()];
}

}  // namespace mmtune::report
