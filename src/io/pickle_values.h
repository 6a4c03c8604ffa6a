#pragma once
// What a pickle describes, without making any of it: a reader of the opcodes that torch.save uses. Names of classes and functions stay
// names. Three of them mean something: torch._utils._rebuild_tensor_v2 (a view of a storage), collections.OrderedDict (a dictionary), and
// torch's storage classes (a dtype). What is made with any other is kept as an opaque value that says its name and can be used for nothing.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/safetensors.h"

namespace mmtune::io {

struct PickleValue {
  enum class Kind { none, boolean, integer, real, text, list, tuple, dictionary, global, storage, tensor, opaque };
  Kind kind = Kind::none;
  std::int64_t integer = 0;  ///< boolean, integer; storage: number of elements; tensor: first element in its storage
  double real = 0;
  std::string text;                          ///< text; global, opaque: "module.name"; storage: its key in the archive
  std::vector<std::uint32_t> items;          ///< list, tuple; dictionary: key, value, key, value …; tensor: its storage
  std::vector<std::int64_t> shape, strides;  ///< tensor
  DType dtype = DType::f32;                  ///< storage
};

/// Values refer to each other by their places in `values`; a value may be part of itself.
struct Pickle {
  std::vector<PickleValue> values;
  std::uint32_t root = 0;

  const PickleValue& at(std::uint32_t id) const { return values[id]; }
  /// The value under a text key of a dictionary; null where it has none, or where `dictionary` is none.
  const PickleValue* find(const PickleValue& dictionary, std::string_view key) const;
};

/// Throws Error naming the opcode and its place: an opcode outside the subset, a damaged or truncated pickle, a storage or tensor whose
/// description contradicts itself, more than a million values, more than 64 MiB.
Pickle read_pickle(std::span<const std::byte> bytes, const std::string& where);

/// What a value is, for messages: "an integer", "an object of builtins.eval".
std::string describe(const PickleValue& value);

}  // namespace mmtune::io
