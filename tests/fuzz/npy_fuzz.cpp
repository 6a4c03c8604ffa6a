// Any bytes as NumPy's array file: a header whose values fill the file, or an Error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "data/npy.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const auto header = mmtune::data::read_npy_header(bytes, size, "fuzz.npy");
    MMTUNE_ASSERT(header.begin <= size && header.count() * header.width == size - header.begin);
  } catch (const mmtune::Error&) {
    // What the reader is for.
  }
  return 0;
}
