#pragma once
// Writes options as TOML through their declaration; reading the text back gives exactly the same values.

#include <functional>
#include <string>

#include "core/options.h"

namespace mmtune {

std::string write_toml(const std::function<void(OptionVisitor&)>& declare);

/// The resolved recipe: every key with its value, defaults included; absent optionals are left out.
template <class T>
std::string write_options(T options) {
  return write_toml([&](OptionVisitor& v) { declare(v, options); });
}

}  // namespace mmtune
