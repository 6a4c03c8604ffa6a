#include "io/stored_zip.h"

#include <algorithm>
#include <array>
#include <optional>
#include <set>

#include "core/error.h"

namespace mmtune::io {

namespace {

constexpr std::uint32_t local_signature = 0x04034b50, central_signature = 0x02014b50, end_signature = 0x06054b50;
constexpr std::uint32_t end64_signature = 0x06064b50, locator_signature = 0x07064b50;
constexpr std::size_t local_size = 30, central_size = 46, end_size = 22, end64_size = 56, locator_size = 20;
constexpr std::size_t longest_comment = 0xffff;
constexpr std::uint64_t in_zip64_32 = 0xffffffff;

[[noreturn]] void damaged(const std::string& where, const std::string& what) {
  throw Error({.what = "the zip archive is damaged or truncated: " + what, .where = where});
}

/// Little-endian numbers at places of the archive, every one checked to lie within it.
class Bytes {
 public:
  Bytes(std::span<const std::byte> bytes, const std::string& where) : bytes_(bytes), where_(where) {}
  std::size_t size() const { return bytes_.size(); }
  std::span<const std::byte> part(std::uint64_t at, std::uint64_t count) const {
    if (at > bytes_.size() || count > bytes_.size() - at) damaged(where_, "something lies beyond its end");
    return bytes_.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(count));
  }
  std::uint64_t number(std::uint64_t at, std::size_t width) const {
    const auto field = part(at, width);
    std::uint64_t value = 0;
    for (std::size_t i = width; i-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(field[i]);
    return value;
  }
  std::string text(std::uint64_t at, std::uint64_t count) const {
    const auto field = part(at, count);
    return {reinterpret_cast<const char*>(field.data()), field.size()};
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& where_;
};

struct Directory {
  std::uint64_t entries, offset, size;
};

Directory find_directory(const Bytes& bytes, const std::string& where) {
  if (bytes.size() < end_size) damaged(where, "it is too short");
  const std::size_t last = bytes.size() - end_size;
  std::optional<std::size_t> end;
  for (std::size_t back = 0; back <= std::min(last, longest_comment) && !end; ++back)
    if (bytes.number(last - back, 4) == end_signature && bytes.number(last - back + 20, 2) == back) end = last - back;
  if (!end) damaged(where, "it has no directory");
  const auto refuse_parts = [&](bool several) {
    if (several) throw Error({.what = "the zip archive has several parts", .where = where});
  };
  refuse_parts(bytes.number(*end + 4, 2) != bytes.number(*end + 6, 2));
  Directory directory{.entries = bytes.number(*end + 10, 2), .offset = bytes.number(*end + 16, 4), .size = bytes.number(*end + 12, 4)};
  if (*end < locator_size || bytes.number(*end - locator_size, 4) != locator_signature) {
    refuse_parts(bytes.number(*end + 4, 2) != 0 || bytes.number(*end + 8, 2) != directory.entries);
    return directory;
  }
  const std::uint64_t at = bytes.number(*end - locator_size + 8, 8);
  bytes.part(at, end64_size);
  if (bytes.number(at, 4) != end64_signature) damaged(where, "its ZIP64 directory is not where it should be");
  refuse_parts(bytes.number(at + 16, 4) != 0 || bytes.number(at + 24, 8) != bytes.number(at + 32, 8));
  return {.entries = bytes.number(at + 32, 8), .offset = bytes.number(at + 48, 8), .size = bytes.number(at + 40, 8)};
}

struct Place {
  std::uint64_t plain, stored, local;
};

/// Values that do not fit into 32 bits stand in the extra field of kind 1, in this order, each only where it is needed.
void read_zip64(const Bytes& bytes, std::uint64_t extra, std::uint64_t length, Place& place, const std::string& where) {
  for (std::uint64_t at = extra; at + 4 <= extra + length;) {
    const std::uint64_t kind = bytes.number(at, 2), size = bytes.number(at + 2, 2);
    if (size > extra + length - at - 4) damaged(where, "an extra field is longer than its place");
    if (kind == 1) {
      std::uint64_t next = at + 4;
      for (std::uint64_t* const value : {&place.plain, &place.stored, &place.local}) {
        if (*value != in_zip64_32) continue;
        if (next + 8 > at + 4 + size) damaged(where, "a ZIP64 field is too short");
        *value = bytes.number(next, 8);
        next += 8;
      }
      return;
    }
    at += 4 + size;
  }
}

}  // namespace

std::vector<ZipMember> read_stored_zip(std::span<const std::byte> archive, const std::string& where) {
  const Bytes bytes(archive, where);
  const Directory directory = find_directory(bytes, where);
  bytes.part(directory.offset, directory.size);
  if (directory.entries > directory.size / central_size) damaged(where, "its directory is shorter than its members");
  std::vector<ZipMember> members;
  std::set<std::string> names;
  std::uint64_t at = directory.offset;
  for (std::uint64_t i = 0; i < directory.entries; ++i) {
    if (bytes.number(at, 4) != central_signature) damaged(where, "an entry of its directory does not begin as one");
    const std::uint64_t flags = bytes.number(at + 8, 2), method = bytes.number(at + 10, 2);
    const std::uint64_t name_length = bytes.number(at + 28, 2), extra = bytes.number(at + 30, 2), comment = bytes.number(at + 32, 2);
    ZipMember member{
        .name = bytes.text(at + central_size, name_length), .data = {}, .crc = static_cast<std::uint32_t>(bytes.number(at + 16, 4))};
    const std::string member_name = "\"" + printable(member.name) + "\"";
    Place place{.plain = bytes.number(at + 24, 4), .stored = bytes.number(at + 20, 4), .local = bytes.number(at + 42, 4)};
    read_zip64(bytes, at + central_size + name_length, extra, place, where);
    if ((flags & 1) != 0) throw Error({.what = "a member of the zip archive is encrypted", .where = where, .got = member_name});
    if (method != 0 || place.plain != place.stored)
      throw Error({.what = "a member of the zip archive is compressed, which torch.save never does", .where = where, .got = member_name});
    if (bytes.number(place.local, 4) != local_signature) damaged(where, "the member " + member_name + " is not where it should be");
    const std::uint64_t local_name = bytes.number(place.local + 26, 2), local_extra = bytes.number(place.local + 28, 2);
    if (bytes.text(place.local + local_size, local_name) != member.name) damaged(where, "the member " + member_name + " has two names");
    member.data = bytes.part(place.local + local_size + local_name + local_extra, place.plain);
    if (!names.insert(member.name).second) damaged(where, "the member " + member_name + " occurs twice");
    members.push_back(std::move(member));
    at += central_size + name_length + extra + comment;
    if (at > directory.offset + directory.size) damaged(where, "its directory is longer than it says");
  }
  return members;
}

std::uint32_t crc32_of(std::span<const std::byte> bytes) {
  static constexpr std::array<std::uint32_t, 256> table = [] {
    std::array<std::uint32_t, 256> made{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ ((value & 1) != 0 ? 0xedb88320U : 0U);
      made[i] = value;
    }
    return made;
  }();
  std::uint32_t crc = 0xffffffffU;
  for (const std::byte one : bytes) crc = crc >> 8 ^ table[(crc ^ std::to_integer<std::uint32_t>(one)) & 0xff];
  return ~crc;
}

void check_crc(const ZipMember& member, const std::string& where) {
  if (crc32_of(member.data) != member.crc)
    throw Error({.what = "the file is damaged: a member does not have its checksum", .where = where, .got = printable(member.name)});
}

}  // namespace mmtune::io
