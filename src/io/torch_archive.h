#pragma once
// The tensors of a checkpoint that torch.save wrote (a zip archive with a pickle inside; Lightning's .ckpt files, .pth, .bin), read without
// executing anything (pickle_values.h).

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/pickle_values.h"
#include "io/safetensors.h"

namespace mmtune::io {

class TorchArchive {
 public:
  /// Throws Error naming the file, and the tensor or object at fault: no such archive, damaged or with a wrong checksum, big-endian, no
  /// dictionary of tensors, a tensor beyond its storage. Objects other than tensors are refused among the tensors; elsewhere
  /// (hyper_parameters, callbacks, optimiser states) they are left alone.
  static TorchArchive open(const std::filesystem::path& path);
  /// The same over bytes in memory, which must outlive the result.
  static TorchArchive from_bytes(std::span<const std::byte> bytes, const std::string& where);

  /// Of the entry "state_dict" or "model", or of the whole file where it has neither; by name. Their bytes lie in the file, or in this
  /// object.
  const std::vector<TensorEntry>& tensors() const { return tensors_; }
  const TensorEntry* find(std::string_view name) const;
  /// An integer among the file's hyper_parameters, or in their "config".
  std::optional<std::int64_t> hyper_parameter(std::string_view name) const;

 private:
  void read(std::span<const std::byte> bytes, const std::string& where);

  std::shared_ptr<const MappedFile> mapping_;
  Pickle pickle_;
  std::vector<TensorEntry> tensors_;
  std::vector<std::unique_ptr<std::vector<std::byte>>> copies_;  ///< of tensors that do not lie in order
};

}  // namespace mmtune::io
