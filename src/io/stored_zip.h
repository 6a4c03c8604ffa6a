#pragma once
// Zip archives whose members lie in them uncompressed: what torch.save writes. Nothing is unpacked; members are spans of the file.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace mmtune::io {

struct ZipMember {
  std::string name;
  std::span<const std::byte> data;
  std::uint32_t crc = 0;
};

/// The members in the order of the archive's directory (ZIP64 included). Throws Error on anything that is not whole, within bounds and
/// agreeing in both of the archive's places, on compressed or encrypted members, on archives of several parts, and on a name that occurs
/// twice. Checksums are not computed here.
std::vector<ZipMember> read_stored_zip(std::span<const std::byte> bytes, const std::string& where);

/// Throws Error where the member's bytes do not have its checksum (CRC-32).
void check_crc(const ZipMember& member, const std::string& where);
std::uint32_t crc32_of(std::span<const std::byte> bytes);

}  // namespace mmtune::io
