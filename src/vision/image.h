#pragma once
// Decoded pictures, and the decoders (JPEG, PNG, WebP) that make them from bytes.

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
  std::int64_t max_pixels = 178'956'970;  ///< the bound above which Pillow speaks of a decompression bomb, twice its warning
};

/// Decodes to RGB exactly as PIL's `ImageOps.exif_transpose(Image.open(f)).convert("RGB")` does: palettes, 16-bit, grey, alpha (dropped)
/// and 1-bit PNG, grey and CMYK JPEG, lossy and lossless WebP (first frame). The format is told by the content. `where` names the file in
/// errors. Throws Error on unknown formats, damage or truncation, and on a declared size over the limits (before any allocation).
Image decode_image(std::span<const std::byte> bytes, const std::string& where, const DecodeLimits& limits = {});

enum class Filter { nearest, bilinear, bicubic, lanczos, box };

/// Pillow's antialiased `Image.resize((width, height), filter)` on 8-bit pixels, bit for bit.
Image resize(const Image& image, std::int64_t width, std::int64_t height, Filter filter);

}  // namespace mmtune::vision
