#pragma once
// Where pictures and sounds lie: references as manifests write them, archives looked up once, ranges read.

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "data/example.h"
#include "data/tar.h"

namespace mmtune::data {

/// A regular file open for reading ranges. Folders, pipes and devices are refused, so that nothing can hang.
class MediaFile {
 public:
  /// Throws Error naming the path.
  explicit MediaFile(const std::filesystem::path& path);
  ~MediaFile();
  MediaFile(const MediaFile&) = delete;
  MediaFile& operator=(const MediaFile&) = delete;

  std::uint64_t size() const { return size_; }
  /// Fills `into` from `offset` on. Throws Error when the file ends before that.
  void read(std::uint64_t offset, std::span<char> into) const;

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

/// What a manifest (or a command line) writes: "pictures/cat.jpg", or "shard.tar#member". Relative paths start at `base`; absolute ones
/// and ".." are allowed in paths of files, for users keep pictures where they keep them, but not in names of members. Throws Error with
/// no place in it (the caller knows file, line and field): an empty reference, a URL, a zero byte, a bad member name.
MediaRef parse_media(std::string_view reference, const std::filesystem::path& base);

/// Checks references against the disk and looks up tar members, reading each archive's headers and each file's size once.
/// May be shared between threads.
class MediaIndex {
 public:
  struct Found {
    MediaRef media;           ///< as asked, a member's offset and size filled in
    std::uint64_t bytes = 0;  ///< of the encoded picture or sound
  };
  /// Throws Error: the file or member does not exist, is no regular file, or the range goes past its end.
  Found find(MediaRef media);
  /// The same for a video, which may be a folder with a picture a frame: then `bytes` are those of all its pictures.
  Found find_video(MediaRef media);

 private:
  std::uint64_t file_size(const std::filesystem::path& path);
  std::shared_ptr<const TarIndex> archive(const std::filesystem::path& path);

  std::mutex mutex_;
  std::map<std::string, std::uint64_t> sizes_;
  std::map<std::string, std::shared_ptr<const TarIndex>> archives_;
};

}  // namespace mmtune::data
