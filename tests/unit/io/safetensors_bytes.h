#pragma once
// Safetensors files as bytes, right or wrong on purpose.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "io/safetensors.h"

namespace mmtune::test {

inline std::string length_prefix(std::uint64_t length) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(length >> (8 * i) & 0xff);
  return bytes;
}

inline std::string safetensors_bytes(std::string_view header, std::string_view data = {}) {
  return length_prefix(header.size()).append(header).append(data);
}

/// Opens bytes; they must outlive the result.
inline io::SafetensorsFile open_bytes(const std::string& bytes) {
  return io::SafetensorsFile::from_bytes(std::as_bytes(std::span(bytes)), "x.safetensors");
}

}  // namespace mmtune::test
