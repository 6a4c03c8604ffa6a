#pragma once
// The orientation that a camera noted beside the pixels, and its application.

#include <string_view>

#include "vision/image.h"

namespace mmtune::vision {

/// Tag 0x0112 of the first directory of an EXIF block (with or without its "Exif\0\0" prefix), or 0 where the block is damaged or has no
/// such tag. Any integer type of TIFF is read, as Pillow does; of several values the first. Never reads outside the block.
int exif_orientation(std::string_view exif);

/// `tiff:Orientation` of an XMP packet, or 0. Pillow looks there when the EXIF block has no orientation.
int xmp_orientation(std::string_view xmp);

/// Turns and mirrors the picture so that it stands as it was seen; orientation is EXIF's 1 to 8, anything else leaves it as it is.
Image apply_orientation(Image image, int orientation);

}  // namespace mmtune::vision
