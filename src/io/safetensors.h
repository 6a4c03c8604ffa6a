#pragma once
// The safetensors format, read by mapping and written atomically. Format: 8 bytes little-endian header length N, N bytes of JSON
// {"name": {"dtype", "shape", "data_offsets": [begin, end)}, "__metadata__": {string: string}}, then the data without holes.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/files.h"

namespace mmtune::io {

enum class DType { f64, f32, f16, bf16, i64, i32, i16, i8, u64, u32, u16, u8, boolean, f8_e4m3, f8_e5m2 };

std::size_t size_of(DType dtype);
std::string_view name_of(DType dtype);  ///< as in the file: "F32", "BF16", …

/// A tensor of an open file; `data` points into the mapping and lives as long as the file object.
struct TensorEntry {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> data;
  std::int64_t elements() const;
};

/// An open, fully checked file. Every structural rule of the format is verified before anything is returned: header length and
/// bounds, UTF-8, JSON, duplicate names, dtypes, offsets (negative, reversed, overlapping, with holes), products that overflow,
/// missing and trailing bytes. Empty headers, space padding, rank 0 and zero-size tensors are valid.
class SafetensorsFile {
 public:
  /// Throws Error naming the file and the tensor at fault. Files that are pickles or zip archives (.bin, .pth) are refused with a line that
  /// tells how to convert.
  static SafetensorsFile open(const std::filesystem::path& path);
  /// The same checks over bytes in memory (tests, fuzzing); `bytes` must outlive the result.
  static SafetensorsFile from_bytes(std::span<const std::byte> bytes, const std::string& where);

  const std::vector<TensorEntry>& tensors() const { return tensors_; }  ///< in the order of their data
  const TensorEntry* find(std::string_view name) const;                 ///< null when absent
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& where() const { return where_; }
  const std::shared_ptr<const MappedFile>& mapping() const { return mapping_; }  ///< null for from_bytes

 private:
  std::string where_;
  std::shared_ptr<const MappedFile> mapping_;
  std::vector<TensorEntry> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
};

/// Writes the tensors in the given order, the header padded with spaces to a multiple of 8, to a temporary name that is then synced and
/// renamed. Throws Error on duplicate names, on data whose size does not match dtype and shape, and on write failures (nothing is left
/// behind).
void write_safetensors(const std::filesystem::path& path, std::span<const TensorEntry> tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace mmtune::io
