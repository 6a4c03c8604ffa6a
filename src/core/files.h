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

/// Where recomputable results are kept: $MMTUNE_CACHE, else $XDG_CACHE_HOME/mmtune, else ~/.cache/mmtune. Not created here.
std::filesystem::path cache_folder();

/// Reads a whole file of at most `max_bytes`. Throws Error naming the file (missing, unreadable, too large).
std::string read_file(const std::filesystem::path& path, std::size_t max_bytes = std::size_t{1} << 30);

/// Writes `bytes` to a temporary name in the same folder, syncs, renames over `path`, and syncs the folder. On any failure (full disk,
/// read-only folder) the temporary is removed, `path` is as it was, and an Error names the file and the reason. What a killed writer
/// left (`.NAME.mmtune-*.tmp`) is removed by the next write to the same path. An existing file keeps its permissions, a symbolic link is
/// followed, and a pipe or device is written to directly.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

/// The same for content produced in pieces: `write` is called once with a sink that appends bytes.
using ByteSink = std::function<void(std::span<const std::byte>)>;
void write_file_atomically(const std::filesystem::path& path, const std::function<void(const ByteSink&)>& write);

/// A private mapping of a whole regular file; until they are written to, its pages are the page cache's own. The pages are mapped
/// readable and writable (PROT_READ | PROT_WRITE, MAP_PRIVATE), because a tensor that wraps them cannot promise never to be written to:
/// whoever casts the const away gets a copy of the touched page, and nothing reaches the file. An empty file maps to an empty span.
/// A file that somebody else shortens while it is mapped kills the reader (SIGBUS); files written by us are replaced, never shortened.
class MappedFile {
 public:
  /// Throws Error naming the file.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }
  /// Says that `part` of bytes() was read and will not be soon: whole pages of it leave this process' memory, and are read anew where
  /// they are asked for again. Not for parts that somebody may have written to.
  void forget(std::span<const std::byte> part) const;

 private:
  MappedFile(std::filesystem::path path, const std::byte* data, std::size_t size);
  std::filesystem::path path_;
  const std::byte* data_;
  std::size_t size_;
};

}  // namespace mmtune
