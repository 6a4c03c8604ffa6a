#include "core/staged_folder.h"

#include <unistd.h>

#include <string>
#include <system_error>

#include "core/error.h"

namespace mmtune {

namespace {

namespace fs = std::filesystem;

bool is_taken(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(path, error))) return false;
  return !fs::is_directory(path, error) || !fs::is_empty(path, error);
}

[[noreturn]] void refuse_taken(const fs::path& path) {
  throw Error({.what = "exists already", .where = path.string(), .expected = "the name of a new folder"});
}

}  // namespace

StagedFolder::StagedFolder(const fs::path& target) : target_(fs::absolute(target).lexically_normal()) {
  if (!target_.has_filename()) target_ = target_.parent_path();
  if (is_taken(target_)) refuse_taken(target_);
  path_ = target_.parent_path() / ("." + target_.filename().string() + ".mmtune-" + std::to_string(::getpid()) + ".tmp");
  std::error_code error;
  fs::create_directories(target_.parent_path(), error);
  fs::remove_all(path_, error);
  fs::create_directory(path_, error);
  if (error) throw Error({.what = "cannot make a folder: " + error.message(), .where = target_.parent_path().string()});
}

StagedFolder::~StagedFolder() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
}

void StagedFolder::commit() {
  std::error_code error;
  if (is_taken(target_)) refuse_taken(target_);
  fs::remove(target_, error);  // an empty folder
  fs::rename(path_, target_, error);
  if (error) throw Error({.what = "cannot be put in its place: " + error.message(), .where = target_.string()});
  path_.clear();
}

}  // namespace mmtune
