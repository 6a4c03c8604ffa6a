#pragma once
// The members of an uncompressed tar archive and where their bytes lie; nothing is ever unpacked.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>

namespace mmtune::data {

struct TarMember {
  std::uint64_t offset = 0;  ///< of the first byte of the member's content, from the start of the archive
  std::uint64_t size = 0;
};

/// Reads POSIX ustar (IEEE Std 1003.1, pax interchange format: `path` and `size` records honoured), GNU long names and base-256 sizes, and
/// pre-POSIX archives. Every header's checksum is verified and every member must lie inside the file. Only regular files are listed;
/// folders, links and devices are passed over. As with tar itself, the last of several members of one name counts.
class TarIndex {
 public:
  /// Fills `into` with the bytes from `offset` on; the whole range lies inside the archive.
  using ReadAt = std::function<void(std::uint64_t offset, std::span<char> into)>;

  /// Throws Error naming the archive: missing, truncated, no tar, wrong checksum, unsupported member type (sparse, multi-volume), or a
  /// member whose name is absolute or has a ".." in it.
  static TarIndex read(const std::filesystem::path& path);
  static TarIndex read(const ReadAt& read_at, std::uint64_t size, const std::string& where);

  /// Null when there is no such member. A leading "./" counts for nothing on either side.
  const TarMember* find(std::string_view member) const;
  const std::map<std::string, TarMember, std::less<>>& members() const { return members_; }

 private:
  std::map<std::string, TarMember, std::less<>> members_;
};

/// Why `name` cannot be the name of a member ("is empty", "is absolute", "has a '..' in it"); empty when it can.
std::string_view member_name_fault(std::string_view name);

}  // namespace mmtune::data
