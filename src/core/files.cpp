#include "core/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace mmtune {

namespace fs = std::filesystem;

namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

 private:
  int fd_;
};

std::string reason(int error) {
  return std::generic_category().message(error);
}

[[noreturn]] void fail(const fs::path& path, const std::string& what, int error) {
  std::string hint;
  if (error == ENOSPC || error == EDQUOT) hint = "free some space; nothing was changed";
  if (error == EROFS || error == EACCES || error == EPERM) hint = "check the permissions of the file and its folder";
  throw Error({.what = what + ": " + reason(error), .where = path.string(), .hint = hint});
}

Descriptor open_for_reading(const fs::path& path) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) fail(path, "cannot open", errno);
  return file;
}

void write_all(int fd, const fs::path& path, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      fail(path, "cannot write", errno);
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

std::string temporary_prefix(const fs::path& path) {
  return "." + path.filename().string() + ".mmtune-";
}

/// Removes temporaries of `path` whose writer is gone. A live writer holds a lock on its temporary.
void remove_abandoned(const fs::path& path) {
  const std::string prefix = temporary_prefix(path);
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(path.parent_path(), ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix) || !name.ends_with(".tmp")) continue;
    const Descriptor file(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (file.valid() && ::flock(file.get(), LOCK_EX | LOCK_NB) == 0) ::unlink(entry.path().c_str());
  }
}

/// A new file beside its target. Unless it is renamed into place, the destructor removes it.
class Temporary {
 public:
  explicit Temporary(const fs::path& target) : target_(target) {
    static std::atomic<unsigned> counter{0};
    const std::string prefix = temporary_prefix(target) + std::to_string(::getpid()) + "-";
    for (int attempt = 0; attempt < 100 && !file_.valid(); ++attempt) {
      path_ = target.parent_path() / (prefix + std::to_string(counter++) + ".tmp");
      file_ = Descriptor(::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
      if (!file_.valid()) {
        if (errno == EEXIST) continue;
        fail(target, "cannot write a file in the folder " + target.parent_path().string(), errno);
      }
      // Between creation and lock another writer may take the file for an abandoned one: then it is no longer linked.
      struct stat status {};
      (void)::flock(file_.get(), LOCK_EX);
      if (::fstat(file_.get(), &status) == 0 && status.st_nlink == 0) file_ = Descriptor();
    }
    if (!file_.valid()) fail(target, "cannot make a temporary file in the folder " + target.parent_path().string(), EEXIST);
  }
  ~Temporary() {
    if (!renamed_) ::unlink(path_.c_str());
  }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;

  int fd() const { return file_.get(); }

  void commit() {
    if (::fsync(file_.get()) != 0) fail(target_, "cannot write to the disk", errno);
    if (::rename(path_.c_str(), target_.c_str()) != 0) fail(target_, "cannot put the new file in place", errno);
    renamed_ = true;
    // Without this the new name itself may be lost in a crash. Some file systems cannot sync folders: then the rename has to do.
    const Descriptor folder(::open(target_.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (folder.valid() && ::fsync(folder.get()) != 0 && errno != EINVAL && errno != ENOTSUP) {
      fail(target_, "cannot sync its folder", errno);
    }
  }

 private:
  fs::path target_, path_;
  Descriptor file_;
  bool renamed_ = false;
};

}  // namespace

std::string read_file(const fs::path& path, std::size_t max_bytes) {
  const Descriptor file = open_for_reading(path);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail(path, "cannot read", errno);
  const auto refuse_size = [&](const std::string& got) {
    throw Error(
        {.what = "file too large", .where = path.string(), .expected = "at most " + std::to_string(max_bytes) + " bytes", .got = got});
  };
  const auto size = static_cast<std::size_t>(std::max<off_t>(status.st_size, 0));
  if (S_ISREG(status.st_mode) && size > max_bytes) refuse_size(std::to_string(size));

  // Read to the end whatever the size says: pipes have none, and files may grow.
  std::string text(S_ISREG(status.st_mode) ? size + 1 : std::size_t{64} << 10, '\0');
  std::size_t filled = 0;
  while (true) {
    if (filled == text.size()) text.resize(text.size() * 2);
    const ssize_t got = ::read(file.get(), text.data() + filled, text.size() - filled);
    if (got < 0) {
      if (errno == EINTR) continue;
      fail(path, "cannot read", errno);
    }
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
    if (filled > max_bytes) refuse_size("more");
  }
  text.resize(filled);
  return text;
}

void write_file_atomically(const fs::path& path, std::string_view bytes) {
  write_file_atomically(path, [&](const ByteSink& sink) { sink(std::as_bytes(std::span(bytes))); });
}

void write_file_atomically(const fs::path& path, const std::function<void(const ByteSink&)>& write) {
  struct stat status {};
  const bool exists = ::stat(path.c_str(), &status) == 0;
  if (exists && S_ISDIR(status.st_mode)) fail(path, "cannot write", EISDIR);
  if (exists && !S_ISREG(status.st_mode)) {
    // A pipe or a device (/dev/stdout) is written to, never replaced.
    const Descriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!file.valid()) fail(path, "cannot open for writing", errno);
    write([&](std::span<const std::byte> bytes) { write_all(file.get(), path, bytes); });
    return;
  }
  // A link is followed, so that the file it names is replaced and not the link.
  std::error_code unresolved;
  fs::path target = fs::weakly_canonical(path, unresolved);
  if (unresolved) fail(path, "cannot write", unresolved.value());
  if (!target.has_parent_path()) target = fs::current_path() / target;
  remove_abandoned(target);
  Temporary temporary(target);
  if (exists && ::fchmod(temporary.fd(), status.st_mode & 07777) != 0) fail(path, "cannot set the permissions", errno);
  write([&](std::span<const std::byte> bytes) { write_all(temporary.fd(), path, bytes); });
  temporary.commit();
}

std::shared_ptr<const MappedFile> MappedFile::open(const fs::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // opening a pipe must not wait for a writer
  if (!file.valid()) fail(path, "cannot open", errno);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail(path, "cannot read", errno);
  if (S_ISDIR(status.st_mode)) fail(path, "cannot read", EISDIR);
  if (!S_ISREG(status.st_mode)) throw Error({.what = "not a regular file", .where = path.string()});
  const auto size = static_cast<std::size_t>(status.st_size);
  void* address = nullptr;
  if (size > 0) {
    // NORESERVE: a private writable mapping would otherwise be charged as if every page were going to be copied.
    address = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.get(), 0);
    if (address == MAP_FAILED) fail(path, "cannot map into memory", errno);
  }
  return std::shared_ptr<const MappedFile>(new MappedFile(path, static_cast<const std::byte*>(address), size));
}

MappedFile::MappedFile(fs::path path, const std::byte* data, std::size_t size) : path_(std::move(path)), data_(data), size_(size) {}

void MappedFile::forget(std::span<const std::byte> part) const {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<std::uintptr_t>(part.data()) + page - 1) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(part.data() + part.size()) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

MappedFile::~MappedFile() {
  if (size_ > 0) ::munmap(const_cast<std::byte*>(data_), size_);
}

fs::path cache_folder() {
  const auto named = [](const char* variable) -> fs::path {
    const char* value = std::getenv(variable);
    return value != nullptr ? value : "";
  };
  if (auto own = named("MMTUNE_CACHE"); !own.empty()) return own;
  if (const auto shared = named("XDG_CACHE_HOME"); !shared.empty()) return shared / "mmtune";
  if (const auto home = named("HOME"); !home.empty()) return home / ".cache" / "mmtune";
  return fs::temp_directory_path() / "mmtune-cache";
}

}  // namespace mmtune
