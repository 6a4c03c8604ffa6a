#pragma once
// The part of the program that decodes videos, loaded when it is first needed.

#include <string>

#include "ffmpeg/functions.h"

namespace mmtune::io {

/// Whether this build has it.
bool has_ffmpeg();

/// Its functions. Throws Error, about the file `where`: a build without it, or it cannot be loaded; `instead` is what a user can give
/// otherwise.
const MmtuneFfmpeg& ffmpeg(const std::string& where, const std::string& instead);

}  // namespace mmtune::io
