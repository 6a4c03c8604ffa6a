#include "data/media.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "data/dataset.h"
#include "vision/video.h"

namespace mmtune::data {

namespace {

[[noreturn]] void fail(const std::filesystem::path& path, std::string what) {
  throw Error({.what = std::move(what), .where = path.string()});
}

TarMember member_of(const TarIndex& archive, const MediaRef& media) {
  const TarMember* member = archive.find(media.member);
  if (member == nullptr) {
    throw Error({.what = "has no member '" + printable(media.member) + "'",
                 .where = media.file.string(),
                 .hint = std::to_string(archive.members().size()) + " members" +
                         (archive.members().empty() ? "" : ", the first is '" + printable(archive.members().begin()->first) + "'")});
  }
  return *member;
}

}  // namespace

std::string MediaRef::display() const {
  if (!member.empty()) return file.string() + "#" + member;
  if (size == 0) return file.string();
  return file.string() + " (" + std::to_string(size) + " bytes at " + std::to_string(offset) + ")";
}

std::string MediaRef::variant() const {
  if (!corruption) return "";
  return vision::describe(*corruption) + "@" + std::to_string(corruption_seed);
}

MediaFile::MediaFile(const std::filesystem::path& path) : path_(path) {
  // Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) fail(path, errno == ENOENT ? "does not exist" : std::string("cannot be opened: ") + std::strerror(errno));
  struct stat status {};
  const bool known = ::fstat(descriptor_, &status) == 0;
  if (!known || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    fail(path, S_ISDIR(status.st_mode) ? "is a folder, not a file" : "is not a regular file");
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
}

MediaFile::~MediaFile() {
  ::close(descriptor_);
}

void MediaFile::read(std::uint64_t offset, std::span<char> into) const {
  while (!into.empty()) {
    const ssize_t got = ::pread(descriptor_, into.data(), into.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(path_, std::string("cannot be read: ") + std::strerror(errno));
    if (got == 0) fail(path_, "ends before byte " + std::to_string(offset + into.size()) + " (truncated?)");
    offset += static_cast<std::uint64_t>(got);
    into = into.subspan(static_cast<std::size_t>(got));
  }
}

MediaRef parse_media(std::string_view reference, const std::filesystem::path& base) {
  const auto refuse = [&](std::string what, std::string hint = {}) -> MediaRef {
    throw Error({.what = std::move(what), .got = "'" + printable(reference) + "'", .hint = std::move(hint)});
  };
  if (reference.empty()) return refuse("the path is empty", "leave the field out, or null, where there is none");
  if (reference.find('\0') != std::string_view::npos) return refuse("the path has a zero byte in it");
  for (const std::string_view scheme : {"http://", "https://", "file://", "data:", "s3://", "gs://"}) {
    if (reference.starts_with(scheme)) return refuse("a path of a local file is needed", "download it first");
  }
  MediaRef media;
  const std::size_t mark = reference.find(".tar#");
  if (mark == std::string_view::npos) {
    media.file = base / reference;
    return media;
  }
  media.file = base / reference.substr(0, mark + 4);
  media.member = reference.substr(mark + 5);
  if (const auto fault = member_name_fault(media.member); !fault.empty()) return refuse("the member's name " + std::string(fault));
  return media;
}

std::uint64_t MediaIndex::file_size(const std::filesystem::path& path) {
  {
    const std::lock_guard lock(mutex_);
    if (const auto known = sizes_.find(path.native()); known != sizes_.end()) return known->second;
  }
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    fail(path, errno == ENOENT || errno == ENOTDIR ? "does not exist" : std::string("cannot be opened: ") + std::strerror(errno));
  }
  if (!S_ISREG(status.st_mode)) fail(path, S_ISDIR(status.st_mode) ? "is a folder, not a file" : "is not a regular file");
  const auto size = static_cast<std::uint64_t>(status.st_size);
  const std::lock_guard lock(mutex_);
  sizes_[path.native()] = size;
  return size;
}

std::shared_ptr<const TarIndex> MediaIndex::archive(const std::filesystem::path& path) {
  // Held while reading: two threads that need one archive read it once.
  const std::lock_guard lock(mutex_);
  auto& entry = archives_[path.native()];
  if (!entry) entry = std::make_shared<const TarIndex>(TarIndex::read(path));
  return entry;
}

MediaIndex::Found MediaIndex::find(MediaRef media) {
  const std::uint64_t available = file_size(media.file);
  if (media.size == 0 && !media.member.empty()) {
    const TarMember member = member_of(*archive(media.file), media);
    media.offset = member.offset;
    media.size = member.size;
    return {std::move(media), member.size};
  }
  if (media.size == 0) return {std::move(media), available};
  if (media.offset > available || media.size > available - media.offset) {
    throw Error({.what = "the range goes past the end of the file",
                 .where = media.display(),
                 .expected = "at most " + std::to_string(available) + " bytes",
                 .got = std::to_string(media.size) + " bytes at " + std::to_string(media.offset)});
  }
  const std::uint64_t bytes = media.size;
  return {std::move(media), bytes};
}

MediaIndex::Found MediaIndex::find_video(MediaRef media) {
  std::error_code ignored;
  if (!media.member.empty() || media.size > 0 || !std::filesystem::is_directory(media.file, ignored)) return find(std::move(media));
  Found found{.media = std::move(media)};
  for (const auto& frame : vision::frame_files(found.media.file)) found.bytes += file_size(frame);
  return found;
}

std::string read_media(const MediaRef& media, std::size_t max_bytes) {
  const MediaFile file(media.file);
  std::uint64_t offset = media.offset;
  std::uint64_t size = media.size;
  if (size == 0 && !media.member.empty()) {
    const auto read_at = [&](std::uint64_t at, std::span<char> into) { file.read(at, into); };
    const TarMember member = member_of(TarIndex::read(read_at, file.size(), media.file.string()), media);
    offset = member.offset;
    size = member.size;
  } else if (size == 0) {
    size = file.size();
  }
  if (size > max_bytes) {
    throw Error({.what = "is too large",
                 .where = media.display(),
                 .expected = "at most " + std::to_string(max_bytes) + " bytes",
                 .got = std::to_string(size)});
  }
  if (offset > file.size() || size > file.size() - offset) {
    throw Error({.what = "goes past the end of its file (truncated, or the manifest belongs to another one)", .where = media.display()});
  }
  std::string bytes(static_cast<std::size_t>(size), '\0');
  file.read(offset, bytes);
  return encoded_picture(std::move(bytes), media.form, media.display());
}

MediaRef corrupted(MediaRef picture, const vision::Corruption& corruption, std::string_view id) {
  picture.corruption = corruption;
  picture.corruption_seed = std::stoull(Fingerprint().add_field(id).hex().substr(0, 16), nullptr, 16);
  return picture;
}

vision::Image read_picture(const MediaRef& media) {
  const std::string bytes = read_media(media);
  vision::Image image = vision::decode_image(std::as_bytes(std::span(bytes)), media.display());
  return media.corruption ? vision::corrupted(image, *media.corruption, media.corruption_seed) : image;
}

}  // namespace mmtune::data
