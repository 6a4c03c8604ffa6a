#pragma once
// Pickled checkpoints run code when they are loaded. They are recognised and refused, never read.

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace mmtune::io {

/// Throws Error when the bytes are a pickle, or a zip or tar archive as torch.save writes them. The content decides, not the file's name: a
/// safetensors file called x.bin passes.
void refuse_pickle(std::span<const std::byte> bytes, const std::filesystem::path& path);

/// The command that turns a pickled checkpoint into safetensors: for hints.
std::string pickle_conversion_command(const std::filesystem::path& path);

}  // namespace mmtune::io
