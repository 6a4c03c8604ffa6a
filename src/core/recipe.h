#pragma once
// Recipes: a TOML file and the key=value arguments that change it.

#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "core/option_docs.h"
#include "core/option_reader.h"
#include "core/option_writer.h"
#include "core/toml.h"

namespace mmtune {

/// Reads and parses the file (at most 1 MiB) and applies the assignments in order. Throws UsageError: missing or too large a file, a syntax
/// error with its position, an assignment that cannot be understood.
TomlValue load_recipe(const std::filesystem::path& path, std::span<const std::string> assignments = {});

/// Applies one argument to a recipe: `train.lr=1e-3`, `backbone.main=bert-base-uncased`, `expert.targets=query,value`, `expert.1.rank=4`
/// (the second of several [[expert]] tables; with one the number may be left out), `data.columns."my image"=picture`. The value is TOML
/// where it parses as TOML, otherwise the text itself. Throws UsageError naming the argument.
void apply_assignment(TomlValue& root, const std::string& assignment);

/// The whole way from a file to checked options.
template <class T>
T read_recipe(const std::filesystem::path& path, std::span<const std::string> assignments = {}) {
  return read_options<T>(load_recipe(path, assignments));
}

}  // namespace mmtune
