#pragma once
// NumPy's array files (*.npy): what an array is and where its values begin.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace mmtune::data {

struct NpyHeader {
  char kind = 'u';          ///< 'u', 'i', 'f' or 'b' as in NumPy
  std::uint64_t width = 1;  ///< bytes of a value, little-endian
  std::vector<std::uint64_t> shape;
  std::uint64_t begin = 0;      ///< of the values in the file
  std::uint64_t count() const;  ///< of values
};

/// Reads the header at the beginning of a file of `file_size` bytes, of which `head` are the first ones (at least 64 KiB or all). Versions
/// 1 to 3 of the format. Throws Error naming `where`: another format, a header that is not the dictionary that NumPy writes, objects,
/// big-endian values, Fortran order, and a size that the shape does not give.
NpyHeader read_npy_header(std::string_view head, std::uint64_t file_size, const std::string& where);
NpyHeader read_npy_header(const std::filesystem::path& path);

/// A one-dimensional array of integers. Throws Error on anything else and on values that no int64 holds.
std::vector<std::int64_t> read_npy_integers(const std::filesystem::path& path);

}  // namespace mmtune::data
