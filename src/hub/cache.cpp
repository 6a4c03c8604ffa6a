#include "hub/cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>
#include <thread>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/log.h"
#include "hub/http.h"
#include "io/hub_cache.h"
#include "report/table.h"

namespace mmtune::hub {

namespace fs = std::filesystem;

namespace {

void make_folders(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error)
    throw Error({.what = "cannot make the folder: " + error.message(),
                 .where = folder.string(),
                 .hint = "HF_HOME and HF_HUB_CACHE say where the cache lies"});
}

}  // namespace

std::optional<std::int64_t> size_of_file(const fs::path& path) {
  std::error_code missing;
  if (!fs::is_regular_file(path, missing)) return std::nullopt;
  const auto size = fs::file_size(path, missing);
  return missing ? std::nullopt : std::optional(static_cast<std::int64_t>(size));
}

RepositoryCache::RepositoryCache(fs::path cache, const std::string& repository)
    : cache_(std::move(cache)), folder_(io::repository_folder(cache_, repository)) {}

fs::path RepositoryCache::blob(const RemoteFile& file, const std::string& commit) const {
  const std::string name = file.hash.empty() ? Fingerprint().add_field(commit).add_field(file.path).hex() : file.hash;
  return folder_ / "blobs" / name;
}

fs::path RepositoryCache::incomplete(const fs::path& blob) {
  return fs::path(blob.string() + ".incomplete");
}

fs::path RepositoryCache::snapshot(const std::string& commit) const {
  return folder_ / "snapshots" / commit;
}

fs::path RepositoryCache::lock_file(const fs::path& blob) const {
  return cache_ / ".locks" / folder_.filename() / (blob.filename().string() + ".lock");
}

void RepositoryCache::prepare() const {
  make_folders(folder_ / "blobs");
  make_folders(cache_ / ".locks" / folder_.filename());
}

void RepositoryCache::require_space(std::int64_t bytes) const {
  struct statvfs status {};
  if (::statvfs(folder_.c_str(), &status) != 0) return;  // a file system that cannot tell says so when it is full
  const double free = static_cast<double>(status.f_bavail) * static_cast<double>(status.f_frsize);
  if (free < static_cast<double>(bytes))
    throw Error({.what = "not enough space on the disk",
                 .where = folder_.string(),
                 .expected = report::human_bytes(static_cast<double>(bytes)),
                 .got = report::human_bytes(free),
                 .hint = "HF_HOME and HF_HUB_CACHE say where the cache lies"});
}

void RepositoryCache::link(const std::string& commit, const std::string& path, const fs::path& blob) const {
  const fs::path place = snapshot(commit) / path;
  make_folders(place.parent_path());
  const fs::path target = blob.lexically_relative(place.parent_path());
  std::error_code error;
  if (fs::read_symlink(place, error) == target && !error) return;
  // A link cannot be replaced in one step, but another one can be renamed over it.
  const fs::path fresh = place.parent_path() / ("." + std::to_string(::getpid()) + ".mmtune-link");
  fs::remove(fresh, error);
  fs::create_symlink(target, fresh, error);
  if (!error) fs::rename(fresh, place, error);
  if (error) {
    std::error_code ignored;
    fs::remove(fresh, ignored);
    throw Error({.what = "cannot make the link: " + error.message(), .where = place.string()});
  }
}

void RepositoryCache::set_reference(const std::string& revision, const std::string& commit) const {
  if (revision == commit) return;
  const fs::path reference = folder_ / "refs" / revision;
  make_folders(reference.parent_path());
  // Without a line break at the end: huggingface_hub takes the file's whole text for the commit.
  write_file_atomically(reference, commit);
}

RepositoryCache::Lock::Lock(const fs::path& file, const std::function<bool()>& keep_going)
    : fd_(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
  if (fd_ < 0) throw Error({.what = std::string("cannot open the lock: ") + std::strerror(errno), .where = file.string()});
  bool said = false;
  while (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    // A file system without locks: two at once fetch twice, and each blob is still put in place whole.
    if (errno != EWOULDBLOCK && errno != EINTR) return;
    if (!said) log_info("another process fetches this file; waiting for it");
    said = true;
    if (!keep_going()) {
      ::close(fd_);
      throw Interrupted();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

RepositoryCache::Lock::~Lock() {
  ::close(fd_);
}

}  // namespace mmtune::hub
