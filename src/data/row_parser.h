#pragma once
// One row of a file turned into one example: column maps, types, media references, labels as text.

#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/dataset.h"
#include "data/media.h"
#include "data/rows.h"

namespace mmtune::data {

/// An example whose labels are still texts, for the classes may be known only when all rows are read.
struct ParsedRow {
  Example example;
  std::optional<std::vector<std::string>> labels;  ///< nothing: unlabelled; sorted and distinct for multi-label data
  std::string media_key;                           ///< the row's media references as written, with their sizes: for the fingerprint
};

class RowParser {
 public:
  /// Throws UsageError: a column map for a field that is none of ours, or two columns for the label. `media` null: references are not
  /// checked against the disk. Keeps references to both arguments.
  RowParser(const ReadOptions& options, MediaIndex* media);

  /// `joined` (may be null) stands in for fields that the row lacks; its media paths are relative to `joined_folder`. Throws Error at
  /// row.where naming the field.
  ParsedRow parse(const Row& row, const Json* joined, const std::filesystem::path& joined_folder);

  /// Throws Error when a mapped column of text or media was in no row so far (see ReadOptions::columns_must_exist).
  void check_columns_seen() const;

 private:
  struct Value {
    const Json* json = nullptr;  ///< null when absent
    bool from_join = false;
  };
  struct Cursor;  // the row at hand

  ParsedRow parse_completed(const Row& row, const Json* joined, const std::filesystem::path& joined_folder);
  std::optional<std::string> filled(const Cursor& cursor, std::string_view pattern) const;
  static Value find(const Cursor& cursor, const std::string& field);
  Value column(const Cursor& cursor, std::string_view ours);
  const std::string& source_name(std::string_view ours) const;
  [[noreturn]] void fail(const Cursor& cursor, std::string_view ours, std::string what, std::string expected = {}, std::string got = {},
                         std::string hint = {}) const;

  std::string id(const Cursor& cursor);
  std::optional<std::string> text(const Cursor& cursor, std::string_view ours);
  std::optional<MediaRef> media(const Cursor& cursor, std::string_view ours, std::string& key);
  void take_shard(const Cursor& cursor, ParsedRow& parsed);
  std::uint64_t count(const Cursor& cursor, const std::string& field, const Json& value) const;
  std::optional<MediaRef> checked(const Cursor& cursor, std::string_view ours, MediaRef media, std::string_view written, std::string& key);
  std::optional<std::vector<std::string>> labels(const Cursor& cursor);
  std::vector<std::string> label_list(const Cursor& cursor, std::string_view ours, const Json& value) const;
  std::string label_text(const Cursor& cursor, std::string_view ours, const Json& value) const;
  std::vector<std::string> answers(const Cursor& cursor);

  const ReadOptions& options_;
  MediaIndex* media_;
  std::filesystem::path folder_;  ///< what the row's own media paths are relative to
  std::map<std::string, std::string, std::less<>> columns_;
  std::map<std::string, bool, std::less<>> seen_;  ///< our field → whether its mapped column was in some row
  std::string first_fields_;                       ///< the fields of the first row, for messages
};

}  // namespace mmtune::data
