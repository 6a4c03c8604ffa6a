#pragma once
// A folder that is complete or not there.

#include <filesystem>

namespace mmtune {

/// A hidden folder beside `target` in which files are written; commit() gives it its name. What is not committed is removed.
class StagedFolder {
 public:
  /// Throws Error where `target` is there and is no empty folder, or where nothing can be written beside it.
  explicit StagedFolder(const std::filesystem::path& target);
  ~StagedFolder();
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }  ///< where to write
  void commit();

 private:
  std::filesystem::path target_, path_;
};

}  // namespace mmtune
