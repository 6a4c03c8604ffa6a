#pragma once
// Reads options from a TOML table through their declaration, and finds every mistake in it.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/options.h"
#include "core/toml.h"

namespace mmtune {

/// Fills options from a table. Mistakes are collected; finish() throws the one that stands first in the file, and says how many follow.
class OptionReader : public OptionVisitor {
 public:
  explicit OptionReader(const TomlValue& table);

  /// Throws UsageError for the first mistake: unknown keys (naming the nearest known one), wrong types and values out of range in the
  /// order of the file, then missing keys, then broken require() conditions.
  void finish();

  void require(std::string_view key, bool holds, const std::string& expected, const std::string& hint) override;

 protected:
  void visit_field(std::string_view key, FieldRef value, const FieldSpec& spec) override;
  void visit_choice(std::string_view key, std::string& name, const std::vector<std::pair<std::string, std::string>>& names,
                    const FieldSpec& spec) override;
  void visit_variants(std::string_view key, std::string& name, const std::vector<Variant>& all, const FieldSpec& spec) override;
  void visit_table(std::string_view key, const TableRef& table, const TableSpec& spec) override;
  void visit_tables(std::string_view key, const TableListRef& list, const TableSpec& spec) override;

 private:
  enum class Rank { wrong, missing, condition };
  struct Problem {
    Rank rank;
    TomlPosition at;
    ErrorParts parts;
  };

  OptionReader(const TomlValue& table, std::string path, std::shared_ptr<std::vector<Problem>> problems);

  const TomlValue* take(std::string_view key, const std::string& wanted, const FieldSpec& spec);
  std::string path_of(std::string_view key) const;
  void report(Rank rank, const TomlPosition& at, ErrorParts parts);
  void wrong_type(const std::string& path, const TomlValue& value, const std::string& expected);
  bool read_name(std::string_view key, std::string& name, const std::vector<std::string>& names, const FieldSpec& spec);
  void report_unknown_keys();

  const TomlValue& table_;
  std::string path_;  ///< of this table: "" or "train." or "expert[0]."
  std::shared_ptr<std::vector<Problem>> problems_;
  std::vector<std::string> known_;
  struct Unchosen {
    std::string key, chosen;
    std::vector<Variant> variants;
  };
  std::vector<Unchosen> unchosen_;
};

/// Reads a whole recipe (or table) into a default-constructed T; throws UsageError.
template <class T>
T read_options(const TomlValue& root) {
  T options{};
  OptionReader reader(root);
  declare(reader, options);
  reader.finish();
  return options;
}

}  // namespace mmtune
