#include "data/join.h"

#include <optional>
#include <utility>

#include "core/error.h"
#include "data/filter.h"

namespace mmtune::data {

namespace {

std::string key_of(const Row& row, const std::string& field) {
  const auto found = row.fields.find(field);
  std::optional<std::string> text = found == row.fields.end() ? std::nullopt : scalar_text(*found);
  if (!text) {
    throw Error({.what = "the row lacks the join key '" + field + "'",
                 .where = row.where,
                 .expected = "text or an integer",
                 .got = found == row.fields.end() ? "no such field" : found->type_name()});
  }
  return std::move(*text);
}

}  // namespace

JoinTable::JoinTable(const ReadOptions& options)
    : path_(options.join_path), key_(options.join_key), folder_(std::filesystem::path(options.join_path).parent_path()) {
  if (key_.empty()) throw UsageError({.what = "a join needs the name of its key", .where = "join_key"});
  const std::string& own_key = options.join_other_key.empty() ? key_ : options.join_other_key;
  Filter filter(options.join_where);
  read_rows(path_, options.quotes, [&](Row&& row) {
    if (!filter.passes(row.fields)) return;
    std::string key = key_of(row, own_key);
    const auto [earlier, added] = rows_.try_emplace(std::move(key), std::move(row));
    if (!added) {
      throw Error({.what = "a second row with " + own_key + " '" + printable(earlier->first) + "'",
                   .where = row.where,
                   .hint = "the first is " + earlier->second.where + "; choose between them with join_where"});
    }
  });
  if (rows_.empty()) {
    throw Error({.what = "no rows to join", .where = path_, .got = filter.empty() ? "an empty file" : "none with " + filter.describe()});
  }
}

const Json& JoinTable::partner(const Row& row) const {
  const auto found = rows_.find(key_of(row, key_));
  if (found == rows_.end()) {
    throw Error(
        {.what = "no row of " + path_ + " has the join key " + key_ + " '" + printable(key_of(row, key_)) + "'", .where = row.where});
  }
  return found->second.fields;
}

}  // namespace mmtune::data
