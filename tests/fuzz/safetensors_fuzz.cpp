// SafetensorsFile: an Error or tensors that tile the data section.

#include <cstdint>
#include <cstdlib>
#include <span>

#include "core/error.h"
#include "io/pickle.h"
#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    mmtune::io::refuse_pickle(bytes, "fuzz.bin");
    const auto file = mmtune::io::SafetensorsFile::from_bytes(bytes, "fuzz");
    std::size_t covered = 0;
    for (const auto& tensor : file.tensors()) {
      if (static_cast<std::size_t>(tensor.elements()) * mmtune::io::size_of(tensor.dtype) != tensor.data.size()) std::abort();
      if (file.find(tensor.name) != &tensor) std::abort();
      covered += tensor.data.size();
    }
    if (covered > size ||
        (!file.tensors().empty() && file.tensors().back().data.data() + file.tensors().back().data.size() != bytes.data() + size)) {
      std::abort();
    }
  } catch (const mmtune::Error&) {
  }
  return 0;
}
