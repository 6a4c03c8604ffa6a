#pragma once
// The rows of any supported file, as JSON objects: what differs between formats ends here.

#include <filesystem>
#include <functional>
#include <istream>
#include <string>
#include <vector>

#include "core/json.h"

namespace mmtune::data {

enum class Format { json_lines, json_list, csv, tsv, image_folder, cifar, numpy };

/// Told by the path: a folder, or the ending *.jsonl (also *.ndjson), *.json, *.csv, *.tsv, *.bin (CIFAR),
/// *.npy. Throws Error: it does not exist, or has
/// another ending.
Format format_of(const std::filesystem::path& path);

struct Row {
  Json fields;           ///< an object; cells of CSV and TSV are strings, empty cells null
  std::string where;     ///< "file:line", or "file: item 3" for JSON: begins every message about the row
  bool untyped = false;  ///< from CSV or TSV, where every value is text
  std::string id;        ///< the example's id where the row has none: "file.jsonl:12", or the picture's path in its folder
};
using RowSink = std::function<void(Row&&)>;

/// Calls `sink` once a row, in file order. Throws Error with file and line; whatever `sink` throws goes through.
void read_rows(const std::filesystem::path& path, bool quotes, const RowSink& sink);

// The formats one by one, from a stream; `path` is for messages and ids.
void read_json_lines(std::istream& in, const std::filesystem::path& path, const RowSink& sink);
/// `columns`: the names where the file has no header line.
void read_separated(std::istream& in, const std::filesystem::path& path, char separator, bool quotes, const RowSink& sink,
                    const std::vector<std::string>& columns = {});

/// One row a picture: {"image": path, "label": name of the first-level folder}. Where every folder at the top is named like a split
/// (train, training, val, valid, validation, dev, test, testing), the classes are one level below, and rows have a "split" too. Folders
/// named like the ten classes of ImageNette (n01440764 …) give rows a "class_name" too. Pictures right at the top, with no folders beside,
/// have no label. Order: by name. Files that are no pictures are passed over; pictures in a format that cannot be read (GIF, BMP, TIFF,
/// HEIC, AVIF) are an Error.
void read_image_folder(const std::filesystem::path& folder, const RowSink& sink);

}  // namespace mmtune::data
