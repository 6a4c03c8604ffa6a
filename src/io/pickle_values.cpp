#include "io/pickle_values.h"

#include <string_view>

#include "core/error.h"

namespace mmtune::io {

using Kind = PickleValue::Kind;

const PickleValue* Pickle::find(const PickleValue& dictionary, std::string_view key) const {
  if (dictionary.kind != Kind::dictionary) return nullptr;
  // A key that is set twice has its last value.
  for (std::size_t i = dictionary.items.size(); i >= 2; i -= 2) {
    const PickleValue& name = at(dictionary.items[i - 2]);
    if (name.kind == Kind::text && name.text == key) return &at(dictionary.items[i - 1]);
  }
  return nullptr;
}

std::string describe(const PickleValue& value) {
  switch (value.kind) {
    case Kind::none:
      return "None";
    case Kind::boolean:
      return "a truth value";
    case Kind::integer:
      return "an integer";
    case Kind::real:
      return "a number";
    case Kind::text:
      return "a text";
    case Kind::list:
      return "a list";
    case Kind::tuple:
      return "a tuple";
    case Kind::dictionary:
      return "a dictionary";
    case Kind::global:
      return "the name " + printable(value.text);
    case Kind::storage:
      return "a storage";
    case Kind::tensor:
      return "a tensor";
    case Kind::opaque:
      return "an object of " + printable(value.text);
  }
  MMTUNE_ASSERT(false);
  return "";
}

}  // namespace mmtune::io
