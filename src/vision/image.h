#pragma once
// Decoded pictures, the decoders (JPEG, PNG, WebP) that make them from bytes, and the geometry that image processors need.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace mmtune::vision {

/// 8-bit RGB, row-major, interleaved: pixels[(y * width + x) * 3 + channel].
struct Image {
  std::int64_t width = 0;
  std::int64_t height = 0;
  std::vector<std::uint8_t> pixels;
};

struct DecodeLimits {
  std::int64_t max_pixels = 178'956'970;  ///< above this Pillow refuses a picture as a decompression bomb (twice its warning)
};

/// Decodes to RGB exactly as PIL's `ImageOps.exif_transpose(Image.open(f)).convert("RGB")` does: palettes, 16-bit (colour keeps the high
/// byte, grey is clipped to 255), grey, alpha (dropped, not composited) and 1-bit PNG, grey and CMYK JPEG, lossy and lossless WebP; of an
/// animation the first frame. The format is told by the content. `where` names the file in errors. Binary 8-bit PPM (P6) is read too.
/// Throws Error on unknown formats, damage or truncation, and on a declared size over the limits (before any allocation). Damage inside a
/// JPEG's entropy-coded data that libjpeg only warns of is accepted, as Pillow does; a PNG must be whole up to its IEND, which is stricter
/// than Pillow.
Image decode_image(std::span<const std::byte> bytes, const std::string& where, const DecodeLimits& limits = {});

/// Pillow's filters. nearest takes one source pixel; the others are antialiased: stretched by the scale when the picture shrinks.
enum class Filter { nearest, bilinear, bicubic, lanczos, box, hamming };

/// Pillow 13's `Image.resize((width, height), filter)` on 8-bit pixels, bit for bit: a horizontal pass, then a vertical one (the other way
/// round where the height shrinks much more than the width), each in fixed point with 22 fractional bits, rounded and clipped to 8 bits.
/// width and height are positive, and so are the picture's.
Image resize(const Image& image, std::int64_t width, std::int64_t height, Filter filter);

/// The rectangle of `width` x `height` pixels whose upper left corner is (x, y); it must lie inside the picture.
Image crop(const Image& image, std::int64_t x, std::int64_t y, std::int64_t width, std::int64_t height);

/// Left and right exchanged.
Image flip_horizontal(const Image& image);

}  // namespace mmtune::vision
