#pragma once
// How a picture lies in a larger file when it is no file of its own.

#include <cstdint>
#include <string>

#include "core/json.h"

namespace mmtune::data {

enum class PictureForm {
  encoded,     ///< JPEG, PNG, WebP: what decode_image reads
  base64,      ///< such a file as base64 text
  planar_rgb,  ///< raw bytes, a channel after the other
  packed_rgb,  ///< raw bytes, a pixel after the other
};

struct RawPicture {
  PictureForm form = PictureForm::encoded;
  std::int64_t width = 0;  ///< of raw bytes
  std::int64_t height = 0;
};

/// Reads "encoding", and for raw bytes "width" and "height", beside a range of `size` bytes. Throws Error naming `where`: an unknown
/// encoding, or a size that the sides do not give.
RawPicture read_picture_form(const Json& fields, std::uint64_t size, const std::string& where);

/// What decode_image reads, of the bytes as they lie in the file; raw pixels become a portable pixmap. Throws Error naming `where`.
std::string encoded_picture(std::string bytes, const RawPicture& form, const std::string& where);

}  // namespace mmtune::data
