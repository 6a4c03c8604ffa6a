#pragma once
// Names and shapes in a message.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace mmtune {

/// "a, b, c and 4 more": the first `most` of them, printable, each cut to `width` characters.
std::string listed(std::span<const std::string> names, std::size_t most, std::size_t width = 120);

/// "[2, 768]".
std::string shape_text(std::span<const std::int64_t> shape);

}  // namespace mmtune
