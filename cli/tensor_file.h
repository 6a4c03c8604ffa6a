#pragma once
// Tensors that a command writes, and what it says about them.

#include <span>
#include <string>

#include "io/safetensors.h"

namespace mmtune::cli {

/// Writes the file and prints its name and the tensors' dtypes and shapes, as a line or as JSON.
void write_tensor_file(const std::string& path, std::span<const io::TensorEntry> tensors, bool json);

}  // namespace mmtune::cli
