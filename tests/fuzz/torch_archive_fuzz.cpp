// TorchArchive: an Error, or tensors whose bytes fit their shapes.

#include <cstdint>
#include <cstdlib>
#include <span>

#include "core/error.h"
#include "io/published_models.h"
#include "io/torch_archive.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto archive = mmtune::io::TorchArchive::from_bytes(std::as_bytes(std::span(data, size)), "fuzz");
    std::size_t total = 0;
    for (const auto& tensor : archive.tensors()) {
      if (static_cast<std::size_t>(tensor.elements()) * mmtune::io::size_of(tensor.dtype) != tensor.data.size()) std::abort();
      if (archive.find(tensor.name) != &tensor) std::abort();
      total += tensor.data.size();
    }
    if (total > 4 * size) std::abort();
    mmtune::io::recognise_published(archive, {}, "fuzz");
  } catch (const mmtune::Error&) {
  }
  return 0;
}
