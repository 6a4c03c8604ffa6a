#pragma once
// What a hub says a repository holds: the answer of /api/models/REPO/revision/REVISION?blobs=true.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mmtune::hub {

struct RemoteFile {
  std::string path;                  ///< in the repository, with '/' between folders
  std::optional<std::int64_t> size;  ///< in bytes
  std::string hash;                  ///< SHA-256 for files in LFS, git's SHA-1 for others; empty where the hub does not say
};

struct Listing {
  std::string commit;
  std::vector<RemoteFile> files;  ///< in the hub's order
};

/// Reads the answer. Throws Error{where = `where`}: no JSON, another shape, a commit or hash that is no name of a file, a file name that is
/// absolute or steps out of its folder, more than 100,000 files.
Listing parse_listing(std::string_view json, const std::string& where);

/// Whether a path from the network names a file below the folder it is put into: relative, without empty, "." or ".." parts, without
/// backslashes, colons at the second place or control characters, valid UTF-8.
bool is_safe_file_path(std::string_view path);

}  // namespace mmtune::hub
