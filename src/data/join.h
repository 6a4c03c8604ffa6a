#pragma once
// The second file of a join: its rows by key.

#include <filesystem>
#include <string>
#include <unordered_map>

#include "data/dataset.h"
#include "data/rows.h"

namespace mmtune::data {

class JoinTable {
 public:
  /// Reads options.join_path, keeping the rows that pass options.join_where. Throws Error with file and line: a row without the key, two
  /// rows with one key (the same key in several splits needs a filter), no rows.
  explicit JoinTable(const ReadOptions& options);

  /// The row with the key that `row` has. Throws Error at row.where: no key, or no such row.
  const Json& partner(const Row& row) const;
  const std::filesystem::path& folder() const { return folder_; }

 private:
  std::string path_;
  std::string key_;
  std::filesystem::path folder_;
  std::unordered_map<std::string, Row> rows_;
};

}  // namespace mmtune::data
