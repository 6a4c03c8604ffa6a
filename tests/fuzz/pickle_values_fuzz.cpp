// read_pickle: an Error, or values that refer to each other alone.

#include <cstdint>
#include <cstdlib>
#include <span>

#include "core/error.h"
#include "io/pickle_values.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using mmtune::io::PickleValue;
  try {
    const auto pickle = mmtune::io::read_pickle(std::as_bytes(std::span(data, size)), "fuzz");
    if (pickle.root >= pickle.values.size() || pickle.values.size() > size) std::abort();
    for (const PickleValue& value : pickle.values) {
      for (const std::uint32_t item : value.items)
        if (item >= pickle.values.size()) std::abort();
      if (value.kind == PickleValue::Kind::tensor &&
          (value.shape.size() != value.strides.size() || pickle.at(value.items.at(0)).kind != PickleValue::Kind::storage))
        std::abort();
      if (value.kind == PickleValue::Kind::dictionary && value.items.size() % 2 != 0) std::abort();
      mmtune::io::describe(value);
    }
    pickle.find(pickle.at(pickle.root), "state_dict");
  } catch (const mmtune::Error&) {
  }
  return 0;
}
