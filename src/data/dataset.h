#pragma once
// Reading data sets: manifests (JSON lines), image folders, CSV and TSV; splits, column maps, joins, few-shot subsets.

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/example.h"

namespace mmtune::data {

/// How to read one split. The format is told by the path: *.jsonl, *.json (a list, or an object whose keys are ids), *.csv, *.tsv, or a
/// folder (subfolder = class).
struct ReadOptions {
  std::string path;
  /// Our field → the file's field: {"image": "picture", "label": "class_name"}. Unmapped names are the manifest's own. A name with braces
  /// is a text that fields of the row are put into: {"image": "pictures/{photo}.jpg"}; a row that lacks one of them has no such field.
  std::map<std::string, std::string> columns;
  /// Whether a mapped text, text_pair, image, image_pair, audio or video column that no row has is an Error (a misspelt name would
  /// otherwise drop a modality in silence). Off for prediction, where a file may lack what the training file had.
  bool columns_must_exist = true;
  /// A second file whose rows are joined by a key: a row of `path` that lacks a field gets that of the row of `join_path` with the same
  /// `join_key` (never its id). Media paths of the second file are relative to its own folder.
  std::string join_path;
  std::string join_key;
  std::string join_other_key;  ///< the key's name in `join_path`; empty: `join_key`
  /// Keep only rows whose field passes: {"split": "train"}. The value is compared as text; it may start with an operator:
  /// "!=x", "=x", and for numbers "<3600", "<=3599", ">3599", ">=3600". A row without the field does not pass. row_number counts
  /// the file's rows from 0 where they have no such field.
  std::map<std::string, std::string> where;
  std::map<std::string, std::string> join_where;  ///< the same for the rows of `join_path`, before the join
  /// Label names in order. Empty: those found, sorted (numbers numerically); a label outside a given list is an Error with file and line.
  /// A label that is no name of a list without numbers may be an index into it, counted from 0; true and false then count as 1 and 0.
  std::vector<std::string> classes;
  bool multi_label = false;           ///< labels are lists (in CSV: separated by `label_separator`); an empty list is valid
  std::string label_separator = "|";  ///< for multi-label CSV and TSV
  bool require_labels = false;        ///< a row without a label is an Error
  bool quotes = true;                 ///< CSV and TSV: RFC 4180 quoting; false: a quote is a character like others
  /// Few-shot: this many examples per class (0 = all), drawn without replacement by `shot_seed`. With the same seed, fewer shots are a
  /// subset of more shots.
  std::int64_t shots = 0;
  std::uint64_t shot_seed = 0;
  std::int64_t limit = 0;  ///< first n rows after everything else; 0 = all
  /// What is done to every picture (image and image_pair) when it is decoded; the random part goes by the example's id.
  std::optional<vision::Corruption> corruption = {};
  /// Rows with a wrong type, an empty text, a label outside the list or missing media are left out and counted instead of thrown.
  /// Files that cannot be parsed are errors all the same.
  bool skip_bad = false;
};

/// Throws Error with file and line: missing file, bad JSON, wrong types, label outside the list, media that is missing, an
/// empty result ("the split is empty", with the filter that emptied it), a few-shot class with too few examples.
Dataset read_dataset(const ReadOptions& options);

/// Label names from a text file, one a line (trailing blanks dropped). Throws Error: missing file, an empty or repeated name.
std::vector<std::string> read_class_names(const std::filesystem::path& path);

/// The encoded bytes of a picture or sound; tar members by the manifest's offset and size, or looked up in the archive's headers.
/// Keeps no state and may be called from any thread. Throws Error naming file and member.
std::string read_media(const MediaRef& media, std::size_t max_bytes = std::size_t{256} << 20);

/// The reference to a picture that is corrupted when it is decoded; the random part goes by `id`.
MediaRef corrupted(MediaRef picture, const vision::Corruption& corruption, std::string_view id);

/// The decoded picture, corrupted where the reference says so. Throws Error naming file and member.
vision::Image read_picture(const MediaRef& media);

}  // namespace mmtune::data
