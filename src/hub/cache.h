#pragma once
// One repository's folder in the cache that is shared with huggingface_hub: blobs/HASH has a file's bytes, snapshots/COMMIT/PATH is a
// relative link to it, refs/REVISION names a commit. A blob, a link and a reference are each either whole or not there.

#include <filesystem>
#include <functional>
#include <string>

#include "hub/listing.h"

namespace mmtune::hub {

class RepositoryCache {
 public:
  /// `cache` is the whole cache's folder. Nothing is created yet.
  RepositoryCache(std::filesystem::path cache, const std::string& repository);

  /// Where a file's bytes lie or are going to: named by its hash; where the hub tells none, by commit and path.
  std::filesystem::path blob(const RemoteFile& file, const std::string& commit) const;
  /// The blob while it is being fetched.
  static std::filesystem::path incomplete(const std::filesystem::path& blob);
  std::filesystem::path snapshot(const std::string& commit) const;
  const std::filesystem::path& folder() const { return folder_; }

  /// Makes the folders for blobs. Throws Error naming the folder.
  void prepare() const;
  /// Throws Error where the file system has fewer than `bytes` left for this user.
  void require_space(std::int64_t bytes) const;
  /// Makes snapshots/COMMIT/PATH a link to the blob, in place of what stands there. Throws Error naming the link.
  void link(const std::string& commit, const std::string& path, const std::filesystem::path& blob) const;
  /// Writes refs/REVISION, unless the revision is the commit itself.
  void set_reference(const std::string& revision, const std::string& commit) const;

  /// Held while a blob is being fetched; huggingface_hub takes the same lock. Waits for another process that holds it.
  class Lock {
   public:
    Lock(const std::filesystem::path& file, const std::function<bool()>& keep_going);
    ~Lock();
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    int fd_ = -1;
  };
  std::filesystem::path lock_file(const std::filesystem::path& blob) const;

 private:
  std::filesystem::path cache_, folder_;
};

/// The regular file's size, also behind a link; nullopt where there is none.
std::optional<std::int64_t> size_of_file(const std::filesystem::path& path);

}  // namespace mmtune::hub
