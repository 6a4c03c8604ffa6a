#include "data/tar.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <optional>
#include <utility>

#include "core/error.h"
#include "data/media.h"

namespace mmtune::data {

namespace {

constexpr std::uint64_t block = 512;
constexpr std::uint64_t max_extension = std::uint64_t{1} << 20;  // of one pax header or long name
using Header = std::array<char, block>;

std::string_view field(const Header& header, std::size_t begin, std::size_t size) {
  const std::string_view all(header.data() + begin, size);
  return all.substr(0, all.find('\0'));
}

std::string_view without_dot(std::string_view name) {
  while (name.starts_with("./")) name.remove_prefix(2);
  return name;
}

/// A number field: octal digits between blanks, or GNU's base-256 (high bit of the first byte set).
std::optional<std::uint64_t> number(const Header& header, std::size_t begin, std::size_t size) {
  const auto first = static_cast<unsigned char>(header[begin]);
  std::uint64_t value = 0;
  if (first & 0x80) {
    if (first != 0x80) return std::nullopt;  // negative, or beyond 64 bits
    for (std::size_t i = 1; i < size; ++i) {
      if (value >> 56) return std::nullopt;
      value = value << 8 | static_cast<unsigned char>(header[begin + i]);
    }
    return value;
  }
  std::string_view digits = field(header, begin, size);
  while (digits.starts_with(' ')) digits.remove_prefix(1);
  while (digits.ends_with(' ')) digits.remove_suffix(1);
  if (digits.empty()) return 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 8);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

/// The sum of the header's bytes with the checksum field as blanks. Some old writers summed signed characters.
bool checksum_holds(const Header& header) {
  std::int64_t plain = 0;
  std::int64_t with_sign = 0;
  for (std::size_t i = 0; i < block; ++i) {
    const char c = i >= 148 && i < 156 ? ' ' : header[i];
    plain += static_cast<unsigned char>(c);
    with_sign += static_cast<signed char>(c);
  }
  const auto stated = number(header, 148, 8);
  return stated && (static_cast<std::int64_t>(*stated) == plain || static_cast<std::int64_t>(*stated) == with_sign);
}

bool all_zero(const Header& header) {
  for (const char c : header) {
    if (c != 0) return false;
  }
  return true;
}

/// One pass over the headers of an archive.
class Walk {
 public:
  Walk(const TarIndex::ReadAt& read_at, std::uint64_t size, const std::string& where) : read_at_(read_at), size_(size), where_(where) {}

  std::map<std::string, TarMember, std::less<>> run() {
    while (next_header()) take();
    if (long_name_ || pax_path_ || pax_size_) fail("ends after an extended header whose member is missing");
    return std::move(members_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error({.what = what, .where = where_, .got = "the header at byte " + std::to_string(header_at_)});
  }

  /// False at the end mark: two zero blocks, of which only the first is insisted on.
  bool next_header() {
    header_at_ = at_;
    if (size_ - at_ < block) fail(at_ == 0 ? "is no tar archive" : "is truncated (the archive's end mark is missing)");
    read_at_(at_, header_);
    at_ += block;
    if (all_zero(header_)) {
      if (header_at_ == 0 && size_ < 2 * block) fail("is no tar archive");
      return false;
    }
    if (!checksum_holds(header_))
      fail(header_at_ == 0 ? "is no tar archive (or its first header is damaged)" : "has a wrong header checksum");
    return true;
  }

  std::string payload(std::uint64_t size) {
    if (size > max_extension) fail("has an extended header of more than 1 MiB");
    std::string bytes(static_cast<std::size_t>(size), '\0');
    read_at_(at_, bytes);
    return bytes;
  }

  void take() {
    const char type = header_[156];
    auto size = number(header_, 124, 12);
    if (!size) fail("has a size that is no number");
    const bool extension = type == 'x' || type == 'g' || type == 'L' || type == 'K';
    if (!extension && pax_size_) size = std::exchange(pax_size_, std::nullopt);
    if (type >= '2' && type <= '6') size = 0;  // symbolic links, devices, folders, pipes have no content
    if (*size > size_ - at_) fail("has a member that goes on past the end of the file (truncated?)");
    switch (type) {
      case 'x':
        take_pax(payload(*size), false);
        break;
      case 'g':
        take_pax(payload(*size), true);
        break;
      case 'L':
        long_name_ = payload(*size);
        long_name_->resize(long_name_->find('\0') == std::string::npos ? long_name_->size() : long_name_->find('\0'));
        break;
      case 'K':  // the long target of a link
      case 'V':  // the volume's label
        break;
      case '0':
      case '\0':
      case '7':
        add(*size);
        break;
      case '1':
      case '2':
      case '3':
      case '4':
      case '5':
      case '6':
        long_name_.reset();
        pax_path_.reset();
        break;
      default:
        fail(std::string("has a member of unsupported type '") + printable({&type, 1}) + "'" + (type == 'S' ? " (a sparse file)" : ""));
    }
    const std::uint64_t padded = (*size + block - 1) / block * block;
    if (*size > std::numeric_limits<std::uint64_t>::max() - block || padded > size_ - at_) fail("is truncated inside a member's padding");
    at_ += padded;
  }

  void add(std::uint64_t size) {
    std::string name;
    if (pax_path_) {
      name = *pax_path_;
    } else if (long_name_) {
      name = *long_name_;
    } else {
      name = field(header_, 0, 100);
      const std::string_view prefix = field(header_, 345, 155);
      // GNU's own magic ("ustar  ") keeps other things where POSIX has the prefix.
      if (std::string_view(header_.data() + 257, 6) == std::string_view("ustar\0", 6) && !prefix.empty()) {
        name = std::string(prefix) + "/" + name;
      }
    }
    pax_path_.reset();
    long_name_.reset();
    const bool old_folder = name.ends_with('/');  // how archives before POSIX marked a folder
    const std::string_view plain = without_dot(name);
    if (old_folder) return;
    if (const auto fault = member_name_fault(plain); !fault.empty())
      fail("has a member whose name '" + printable(name) + "' " + std::string(fault));
    members_[std::string(plain)] = {at_, size};
  }

  /// Records "LENGTH KEY=VALUE\n", the length counting itself.
  void take_pax(std::string_view records, bool global) {
    while (!records.empty()) {
      std::size_t length = 0;
      const auto [end, error] = std::from_chars(records.data(), records.data() + records.size(), length);
      const auto digits = static_cast<std::size_t>(end - records.data());
      if (error != std::errc() || length > records.size() || length < digits + 3 || records[digits] != ' ' || records[length - 1] != '\n') {
        fail("has a malformed extended header");
      }
      const std::string_view record = records.substr(digits + 1, length - digits - 2);
      records.remove_prefix(length);
      const std::size_t equals = record.find('=');
      if (equals == std::string_view::npos) fail("has a malformed extended header");
      const std::string_view key = record.substr(0, equals);
      const std::string_view value = record.substr(equals + 1);
      if (key.starts_with("GNU.sparse")) fail("has a sparse file, which is not supported");
      if (key != "path" && key != "size") continue;
      if (global) fail("has a global extended header that sets a " + std::string(key));
      if (key == "path") {
        pax_path_ = std::string(value.substr(0, value.find('\0')));
      } else {
        std::uint64_t size = 0;
        const auto [stop, fault] = std::from_chars(value.data(), value.data() + value.size(), size);
        if (fault != std::errc() || stop != value.data() + value.size()) fail("has an extended header with a size that is no number");
        pax_size_ = size;
      }
    }
  }

  const TarIndex::ReadAt& read_at_;
  const std::uint64_t size_;
  const std::string& where_;
  std::uint64_t at_ = 0;
  std::uint64_t header_at_ = 0;
  Header header_{};
  std::optional<std::string> long_name_;
  std::optional<std::string> pax_path_;
  std::optional<std::uint64_t> pax_size_;
  std::map<std::string, TarMember, std::less<>> members_;
};

}  // namespace

TarIndex TarIndex::read(const ReadAt& read_at, std::uint64_t size, const std::string& where) {
  TarIndex index;
  index.members_ = Walk(read_at, size, where).run();
  return index;
}

TarIndex TarIndex::read(const std::filesystem::path& path) {
  const MediaFile file(path);
  return read([&](std::uint64_t offset, std::span<char> into) { file.read(offset, into); }, file.size(), path.string());
}

const TarMember* TarIndex::find(std::string_view member) const {
  const auto found = members_.find(without_dot(member));
  return found == members_.end() ? nullptr : &found->second;
}

std::string_view member_name_fault(std::string_view name) {
  name = without_dot(name);
  if (name.empty()) return "is empty";
  if (name.starts_with('/')) return "is absolute";
  if (name.find('\0') != std::string_view::npos) return "has a zero byte in it";
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('/', begin), name.size());
    if (name.substr(begin, end - begin) == "..") return "has a '..' in it";
    begin = end + 1;
  }
  return {};
}

}  // namespace mmtune::data
