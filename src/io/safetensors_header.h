#pragma once
// The JSON header of a safetensors file, checked while it is parsed: no tree is built, so memory stays proportional to the tensors named.

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors.h"

namespace mmtune::io {

struct HeaderTensor {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;  ///< offsets into the data section, end exclusive
};

struct SafetensorsHeader {
  std::vector<HeaderTensor> tensors;  ///< in the order of their data; together they cover [0, data bytes) without hole or overlap
  std::map<std::string, std::string> metadata;
};

/// Parses `text` and checks it against a data section of `data_bytes`. Unknown fields of a tensor are skipped, as the reference reader
/// does. Throws Error{where = `where`}.
SafetensorsHeader parse_safetensors_header(std::string_view text, std::uint64_t data_bytes, const std::string& where);

}  // namespace mmtune::io
