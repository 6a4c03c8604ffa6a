#pragma once
// Reading data sets: manifests (JSON lines), image folders, CSV and TSV; splits, column maps, joins, few-shot subsets.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/example.h"

namespace mmtune::data {

/// How to read one split. The format is told by the path: *.jsonl, *.json (a list), *.csv, *.tsv, or a folder (subfolder = class).
struct ReadOptions {
  std::string path;
  /// Our field → the file's field: {"image": "picture", "label": "class_name"}. Unmapped names are the manifest's own.
  std::map<std::string, std::string> columns;
  /// A second file whose rows are joined by a key: rows of `path` get the fields of the row of `join_path` with the same `join_key`.
  std::string join_path;
  std::string join_key;
  /// Keep only rows whose field equals the value: {"split": "train"}.
  std::map<std::string, std::string> where;
  /// Label names in order. Empty: those found, sorted (numbers numerically); a label outside a given list is an Error with file and line.
  std::vector<std::string> classes;
  bool multi_label = false;
  /// Few-shot: this many examples per class (0 = all), drawn without replacement by `shot_seed`.
  std::int64_t shots = 0;
  std::uint64_t shot_seed = 0;
  std::int64_t limit = 0;  ///< first n rows after everything else; 0 = all
};

/// Throws Error with file and line: missing file, bad JSON, wrong types, label outside the list, media path that escapes or is missing, an
/// empty result ("the split is empty", with the filter that emptied it), a few-shot class with too few examples.
Dataset read_dataset(const ReadOptions& options);

/// The encoded bytes of a picture or sound; tar members by the manifest's offset and size, or looked up in the archive's headers.
/// Throws Error naming file and member.
std::string read_media(const MediaRef& media, std::size_t max_bytes = std::size_t{256} << 20);

}  // namespace mmtune::data
