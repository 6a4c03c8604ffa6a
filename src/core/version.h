#pragma once
// Versions, as the program shows them and as runs record them.

#include <string_view>

namespace mmtune {

/// "0.1.0".
std::string_view version();
/// "2.13": what this build was compiled against; empty in a build without LibTorch.
std::string_view torch_version();

}  // namespace mmtune
