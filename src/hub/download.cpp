#include "hub/download.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "hub/cache.h"
#include "hub/digest.h"

namespace mmtune::hub {

namespace fs = std::filesystem;

namespace {

/// BLOB.incomplete, open for appending.
class Partial {
 public:
  explicit Partial(fs::path path) : path_(std::move(path)), fd_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666)) {
    if (fd_ < 0) fail("cannot write");
    size_ = ::lseek(fd_, 0, SEEK_END);
    if (size_ < 0) fail("cannot write");
  }
  ~Partial() { ::close(fd_); }
  Partial(const Partial&) = delete;
  Partial& operator=(const Partial&) = delete;

  std::int64_t size() const { return size_; }

  void clear() {
    if (::ftruncate(fd_, 0) != 0 || ::lseek(fd_, 0, SEEK_SET) < 0) fail("cannot write");
    size_ = 0;
  }

  void append(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail("cannot write");
      bytes = bytes.subspan(static_cast<std::size_t>(written));
      size_ += written;
    }
  }

  void sync() const {
    if (::fsync(fd_) != 0) fail("cannot write to the disk");
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    const int error = errno;
    std::string hint;
    if (error == ENOSPC || error == EDQUOT) {
      // The space is somebody else's now; another try begins anew.
      ::unlink(path_.c_str());
      hint = "free some space, or set HF_HOME; what was fetched of this file is removed";
    }
    throw Error({.what = what + ": " + std::strerror(error), .where = path_.string(), .hint = hint});
  }

  fs::path path_;
  int fd_;
  std::int64_t size_ = 0;
};

std::string name_of(const Download& what) {
  return what.repository + "/" + printable(what.file.path, 300);
}

/// Brings the partial file to its full size, or throws.
void complete(HubClient& client, const Download& what, Partial& partial, const std::function<void(std::int64_t)>& progress) {
  const auto& size = what.file.size;
  if (size && partial.size() > *size) partial.clear();
  if (!size) partial.clear();  // nothing tells whether what is there is all of it
  int fruitless = 0;
  bool asked = false;
  while (!(size ? partial.size() == *size && (asked || *size > 0) : asked)) {
    const std::int64_t before = partial.size();
    std::string why;
    try {
      client.fetch(what.repository, what.commit, what.file.path, before,
                   [&, first = true](bool from_start, std::span<const std::byte> bytes) mutable {
                     if (first && from_start && before > 0) partial.clear();
                     first = false;
                     if (size && partial.size() + static_cast<std::int64_t>(bytes.size()) > *size)
                       throw Error({.what = "too many bytes: the hub sends more than the file has",
                                    .where = name_of(what),
                                    .expected = std::to_string(*size)});
                     partial.append(bytes);
                     progress(partial.size());
                   });
      asked = true;
      if (!size || partial.size() == *size) return;
      why = name_of(what) + ": too few bytes: expected " + std::to_string(*size) + ", got " + std::to_string(partial.size());
    } catch (const TransferError& error) {
      if (!error.worth_retrying()) throw;
      why = error.what();
    }
    fruitless = partial.size() > before ? 0 : fruitless + 1;
    if (fruitless > client.retries())
      throw Error({.what = why, .hint = partial.size() > 0 ? "the same command goes on where this one stopped" : ""});
    client.wait_before_retry(std::max(fruitless, 1), why);
    if (!size) partial.clear();
  }
}

}  // namespace

void download(HubClient& client, const Download& what, const std::function<bool()>& keep_going,
              const std::function<void(std::int64_t)>& progress) {
  const fs::path incomplete = RepositoryCache::incomplete(what.blob);
  for (bool again = false;; again = true) {
    const bool resumed = size_of_file(incomplete).value_or(0) > 0;
    {
      Partial partial(incomplete);
      progress(partial.size());
      try {
        complete(client, what, partial, progress);
      } catch (...) {
        if (partial.size() == 0) ::unlink(incomplete.c_str());
        throw;
      }
      partial.sync();
    }
    const HashKind kind = hash_kind(what.file.hash);
    const std::string hash = kind == HashKind::none ? "" : hash_file(incomplete, kind, keep_going);
    if (hash == what.file.hash || kind == HashKind::none) break;
    std::error_code ignored;
    fs::remove(incomplete, ignored);
    // The beginning may be what a crash left of another try.
    if (resumed && !again) continue;
    throw Error({.what = std::string("another ") + (kind == HashKind::sha256 ? "SHA-256" : "git SHA-1") + " than the hub promises",
                 .where = name_of(what),
                 .expected = what.file.hash,
                 .got = hash,
                 .hint = "what was fetched of this file is removed"});
  }
  std::error_code error;
  fs::rename(incomplete, what.blob, error);
  if (error) throw Error({.what = "cannot put the file in place: " + error.message(), .where = what.blob.string()});
}

}  // namespace mmtune::hub
