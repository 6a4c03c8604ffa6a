// Any bytes as an archive: members that lie inside it come out, or an Error. The checksum of every header is put right first, for no
// fuzzer finds its way past a sum.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#include "core/error.h"
#include "data/tar.h"

namespace {

void seal_headers(std::string& bytes) {
  for (std::size_t begin = 0; begin + 512 <= bytes.size(); begin += 512) {
    if (bytes[begin + 155] != ' ' || bytes[begin + 154] != 0) continue;  // no block that claims to be a header
    std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(begin) + 148, 8, ' ');
    unsigned sum = 0;
    for (std::size_t i = 0; i < 512; ++i) sum += static_cast<unsigned char>(bytes[begin + i]);
    char digits[8];
    std::snprintf(digits, sizeof digits, "%06o", sum);
    digits[7] = ' ';
    std::memcpy(bytes.data() + begin + 148, digits, 8);
  }
}

void walk(const std::string& bytes) {
  const auto read_at = [&](std::uint64_t offset, std::span<char> into) {
    MMTUNE_ASSERT(offset <= bytes.size() && into.size() <= bytes.size() - offset);
    std::memcpy(into.data(), bytes.data() + offset, into.size());
  };
  try {
    const auto index = mmtune::data::TarIndex::read(read_at, bytes.size(), "fuzz.tar");
    for (const auto& [name, member] : index.members()) {
      MMTUNE_ASSERT(mmtune::data::member_name_fault(name).empty());
      MMTUNE_ASSERT(member.offset <= bytes.size() && member.size <= bytes.size() - member.offset);
      MMTUNE_ASSERT(index.find(name) != nullptr);
    }
  } catch (const mmtune::Error&) {
    // What the reader is for.
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  walk(bytes);
  seal_headers(bytes);
  walk(bytes);
  return 0;
}
