#pragma once
// Files: whole reads, read-only mappings, and writes that are either complete or not there.

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace mmtune {

/// Reads a whole file of at most `max_bytes`. Throws Error naming the file (missing, unreadable, too large).
std::string read_file(const std::filesystem::path& path, std::size_t max_bytes = std::size_t{1} << 30);

/// Writes `bytes` to a temporary name in the same folder, syncs, renames over `path`, and syncs the folder. On any failure (full disk,
/// read-only folder) the temporary is removed, `path` is as it was, and an Error names the file and the reason.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

/// The same for content produced in pieces: `write` is called once with a sink that appends bytes.
using ByteSink = std::function<void(std::span<const std::byte>)>;
void write_file_atomically(const std::filesystem::path& path, const std::function<void(const ByteSink&)>& write);

/// A read-only private mapping of a whole file; the pages are the page cache's own. Writing to the bytes is allowed to the owner of
/// the mapping only through copy-on-write (they never reach the file).
class MappedFile {
 public:
  /// Throws Error naming the file.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  MappedFile(std::filesystem::path path, const std::byte* data, std::size_t size);
  std::filesystem::path path_;
  const std::byte* data_;
  std::size_t size_;
};

}  // namespace mmtune
