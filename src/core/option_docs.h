#pragma once
// What a declaration tells about its options: for --help, for the reference page, and for hints in errors.

#include <functional>
#include <string>
#include <vector>

#include "core/options.h"

namespace mmtune {

/// One key, or the heading of one table.
struct OptionEntry {
  enum class Kind { field, table, list_of_tables, variant };
  Kind kind = Kind::field;
  std::string table;     ///< dotted path of the table it stands in: "" for the root, "train", "expert" …
  std::string key;       ///< a field's or a table's own name; of a variant: the name chosen
  std::string when;      ///< "method = \"lora\"" for keys that exist only then
  std::string accepts;   ///< "an integer >= 1"
  std::string fallback;  ///< the default as TOML; "required"; or what happens when it is left out
  std::string help;
  std::vector<std::pair<std::string, std::string>> choices;  ///< name and help of each, where a choice has helps
};

std::vector<OptionEntry> document(const std::function<void(OptionVisitor&)>& declare);

template <class T>
std::vector<OptionEntry> document_options() {
  return document([](OptionVisitor& v) {
    T options{};
    declare(v, options);
  });
}

/// Keys of the outermost table only.
std::vector<std::string> top_level_keys(const std::function<void(OptionVisitor&)>& declare);

/// The reference page's body: a section a table, a row a key.
std::string options_as_markdown(const std::vector<OptionEntry>& entries);

/// The same for a terminal of `width` columns, as `--help` prints it.
std::string options_as_help(const std::vector<OptionEntry>& entries, std::size_t width = 100);

}  // namespace mmtune
