#pragma once
// Names in an error message.

#include <cstddef>
#include <span>
#include <string>

namespace mmtune {

/// "a, b, c and 4 more": the first `most` of them, printable.
std::string listed(std::span<const std::string> names, std::size_t most);

}  // namespace mmtune
