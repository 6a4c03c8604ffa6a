#include "data/rows.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "data/csv.h"
#include "data/layouts.h"
#include "data/picture_tables.h"
#include "data/raw_pictures.h"

namespace mmtune::data {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t max_line = std::size_t{16} << 20;

std::string lower_extension(const fs::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return extension;
}

/// A line without its end; false at the end of the input.
bool take_line(std::streambuf& in, std::string& line, const std::string& where) {
  line.clear();
  for (;;) {
    const int c = in.sbumpc();
    if (c == std::char_traits<char>::eof()) return !line.empty();
    if (c == '\n') return true;
    if (line.size() == max_line) throw Error({.what = "the line is longer than 16 MiB", .where = where});
    line += static_cast<char>(c);
  }
}

[[noreturn]] void not_an_object(const std::string& where, const Json& value) {
  throw Error({.what = "a row must be an object", .where = where, .expected = "{\"text\": …, \"label\": …}", .got = value.type_name()});
}

/// JSON lines in a file that is called *.json, as NLVR2 is published: a whole object on the first line, and something behind it.
bool holds_json_lines(std::istream& in) {
  std::string line, next;
  if (!std::getline(in, line) || line.size() > max_line || line.find_first_not_of(" \t\r\n\xef\xbb\xbf") == std::string::npos) return false;
  while (std::getline(in, next)) {
    const std::size_t begin = next.find_first_not_of(" \t\r");
    if (begin == std::string::npos) continue;
    return next[begin] == '{' && line[line.find_first_not_of(" \t\xef\xbb\xbf")] == '{' && Json::accept(line);
  }
  return false;
}

/// The keys of an object in the order of the file, which its parsed value has lost.
class TopKeys final : public nlohmann::json_sax<Json> {
 public:
  std::vector<std::string> keys;

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return ++depth_ > 0; }
  bool start_array(std::size_t) override { return ++depth_ > 0; }
  bool end_object() override { return --depth_ >= 0; }
  bool end_array() override { return --depth_ >= 0; }
  bool key(string_t& name) override {
    if (depth_ == 1) keys.push_back(name);
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }

 private:
  int depth_ = 0;
};

/// {"160": {…}, "161": {…}}: a row each, its key the id.
void read_json_object(const fs::path& path, Json&& rows, const RowSink& sink) {
  std::ifstream in(path, std::ios::binary);
  TopKeys order;
  if (!Json::sax_parse(in, &order) || order.keys.size() != rows.size())
    throw Error({.what = "the file changed while it was read", .where = path.string()});
  for (const std::string& key : order.keys) {
    Json& fields = rows[key];
    const std::string where = path.string() + ": item '" + printable(key, 40) + "'";
    if (!fields.contains("id")) fields["id"] = key;
    sink({std::move(fields), where, false, path.filename().string() + ":" + key});
  }
}

void read_json_list(const fs::path& path, const RowSink& sink) {
  {
    std::ifstream in(path, std::ios::binary);
    if (in && holds_json_lines(in)) {
      in.clear();
      in.seekg(0);
      return read_json_lines(in, path, sink);
    }
  }
  Json list = read_json_file(path);
  if (list.is_object() && read_layout(list, path.string(), path.filename().string(), sink)) return;
  const auto is_row = [](const Json& value) { return value.is_object(); };
  if (list.is_object() && !list.empty() && std::all_of(list.begin(), list.end(), is_row))
    return read_json_object(path, std::move(list), sink);
  if (!list.is_array()) {
    throw Error({.what = "a *.json data file must be a list of objects, or an object of them",
                 .where = path.string(),
                 .got = list.type_name(),
                 .hint = "one object a line is *.jsonl; an object must hold rows by their ids, or be one of the known layouts: VQA v2, "
                         "Karpathy's splits"});
  }
  std::size_t number = 0;
  for (Json& item : list) {
    ++number;
    const std::string where = path.string() + ": item " + std::to_string(number);
    if (!item.is_object()) not_an_object(where, item);
    name_pictures(item);
    sink({std::move(item), where, false, path.filename().string() + ":" + std::to_string(number)});
  }
}

std::vector<fs::path> sorted_entries(const fs::path& folder) {
  std::vector<fs::path> entries;
  try {
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (!entry.path().filename().string().starts_with('.')) entries.push_back(entry.path());
    }
  } catch (const fs::filesystem_error& error) {
    throw Error({.what = "cannot be listed: " + error.code().message(), .where = folder.string()});
  }
  std::sort(entries.begin(), entries.end(), [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); });
  return entries;
}

bool is_picture(const fs::path& path) {
  static const std::set<std::string> readable = {".jpg", ".jpeg", ".png", ".webp"};
  static const std::set<std::string> unreadable = {".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif"};
  const std::string extension = lower_extension(path);
  if (unreadable.contains(extension)) {
    throw Error({.what = "a picture in a format that cannot be read",
                 .where = path.string(),
                 .expected = "JPEG, PNG or WebP",
                 .got = extension.substr(1),
                 .hint = "convert it, or take it out of the folder"});
  }
  return readable.contains(extension);
}

bool is_split_name(const std::string& name) {
  static const std::set<std::string> names = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"};
  return names.contains(name);
}

/// Pictures anywhere below `folder`. Links to folders are not followed here, so that a cycle cannot happen.
void pictures_below(const fs::path& folder, int depth, std::vector<fs::path>& pictures) {
  if (depth > 32) throw Error({.what = "has folders more than 32 deep", .where = folder.string()});
  for (const fs::path& entry : sorted_entries(folder)) {
    if (fs::is_directory(entry)) {
      if (!fs::is_symlink(entry)) pictures_below(entry, depth + 1, pictures);
    } else if (is_picture(entry)) {
      pictures.push_back(entry);
    }
  }
}

/// One split: class folders, or pictures without a label.
void read_class_folders(const fs::path& top, const fs::path& folder, const std::string& split, const RowSink& sink) {
  std::vector<fs::path> loose;
  bool has_classes = false;
  const auto emit = [&](const fs::path& picture, const std::string* label) {
    const std::string name = picture.lexically_relative(top).string();
    Row row{Json{{"image", name}}, picture.string(), false, name};
    if (label != nullptr) row.fields["label"] = *label;
    if (const auto known = label != nullptr ? imagenette_name(*label) : std::nullopt) row.fields["class_name"] = *known;
    if (!split.empty()) row.fields["split"] = split;
    sink(std::move(row));
  };
  for (const fs::path& entry : sorted_entries(folder)) {
    if (!fs::is_directory(entry)) {
      if (is_picture(entry)) loose.push_back(entry);
      continue;
    }
    std::vector<fs::path> pictures;
    pictures_below(entry, 0, pictures);
    has_classes = has_classes || !pictures.empty();
    const std::string label = entry.filename().string();
    for (const fs::path& picture : pictures) emit(picture, &label);
  }
  if (loose.empty()) return;
  if (has_classes) {
    throw Error({.what = "a picture beside folders of pictures has no class",
                 .where = loose.front().string(),
                 .hint = "move it into the folder of its class"});
  }
  for (const fs::path& picture : loose) emit(picture, nullptr);
}

/// CoLA (Warstadt, Singh and Bowman 2019), the one table of GLUE without a header: source, 0 or 1, * or nothing, sentence.
bool is_cola(std::string_view line) {
  std::vector<std::string_view> cells;
  while (cells.size() < 5) {
    const std::size_t end = line.find('\t');
    cells.push_back(line.substr(0, end));
    if (end == std::string_view::npos) break;
    line.remove_prefix(end + 1);
  }
  return cells.size() == 4 && (cells[1] == "0" || cells[1] == "1") && (cells[2].empty() || cells[2] == "*");
}

}  // namespace

Format format_of(const fs::path& path) {
  std::error_code error;
  const auto status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) throw Error({.what = "does not exist", .where = path.string()});
  if (error) throw Error({.what = "cannot be opened: " + error.message(), .where = path.string()});
  if (fs::is_directory(status)) return Format::image_folder;
  if (!fs::is_regular_file(status)) throw Error({.what = "is neither a file nor a folder", .where = path.string()});
  const std::string extension = lower_extension(path);
  if (extension == ".jsonl" || extension == ".ndjson") return Format::json_lines;
  if (extension == ".json") return Format::json_list;
  if (extension == ".csv") return Format::csv;
  if (extension == ".tsv") return Format::tsv;
  if (extension == ".bin") return Format::cifar;
  if (extension == ".npy") return Format::numpy;
  throw Error({.what = "cannot tell the format of the data",
               .where = path.string(),
               .expected = "*.jsonl, *.json, *.csv, *.tsv or a folder with a subfolder for each class",
               .got = extension.empty() ? "a name without an ending" : "*" + printable(extension)});
}

void read_rows(const fs::path& path, bool quotes, const RowSink& sink) {
  const Format format = format_of(path);
  if (format == Format::image_folder) return holds_raw_pictures(path) ? read_raw_pictures(path, sink) : read_image_folder(path, sink);
  if (format == Format::cifar) return read_cifar(path, sink);
  if (format == Format::numpy) return read_corrupted_array(path, sink);
  if (format == Format::json_list) return read_json_list(path, sink);
  std::ifstream in(path, std::ios::binary);
  if (!in) throw Error({.what = std::string("cannot be opened: ") + std::strerror(errno), .where = path.string()});
  if (format == Format::json_lines) return read_json_lines(in, path, sink);
  if (format == Format::tsv && !in.eof()) {
    std::string line;
    std::getline(in, line);
    if (is_picture_table(line)) return read_picture_table(path, sink);
    in.clear();
    in.seekg(0);
    if (is_cola(line)) return read_separated(in, path, '\t', quotes, sink, {"source", "label", "mark", "sentence"});
  }
  read_separated(in, path, format == Format::csv ? ',' : '\t', quotes, sink);
}

void read_json_lines(std::istream& in, const fs::path& path, const RowSink& sink) {
  const std::string name = path.string();
  const std::string short_name = path.filename().string();
  std::string line;
  for (std::size_t number = 1;; ++number) {
    std::string where = name + ":" + std::to_string(number);
    if (!take_line(*in.rdbuf(), line, where)) return;
    std::string_view text = line;
    if (number == 1 && text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
    if (text.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    Json fields = parse_json(text, where);
    if (!fields.is_object()) not_an_object(where, fields);
    name_pictures(fields);
    sink({std::move(fields), std::move(where), false, short_name + ":" + std::to_string(number)});
  }
}

void read_separated(std::istream& in, const fs::path& path, char separator, bool quotes, const RowSink& sink,
                    const std::vector<std::string>& columns) {
  const std::string name = path.string();
  const std::string short_name = path.filename().string();
  CsvReader reader(in, name, separator, quotes);
  std::vector<std::string> header = columns;
  if (header.empty() && !reader.next(header))
    throw Error({.what = "the file is empty", .where = name, .expected = "a header line with the columns' names"});
  for (std::size_t i = 0; i < header.size(); ++i) {
    // Columns without a name (pandas writes its row numbers so) are passed over.
    if (!header[i].empty() && std::find(header.begin(), header.begin() + static_cast<std::ptrdiff_t>(i), header[i]) !=
                                  header.begin() + static_cast<std::ptrdiff_t>(i)) {
      throw Error(
          {.what = "the column '" + printable(header[i]) + "' is there twice", .where = name + ":" + std::to_string(reader.line())});
    }
  }
  std::vector<std::string> cells;
  while (reader.next(cells)) {
    std::string where = name + ":" + std::to_string(reader.line());
    if (cells.size() != header.size()) {
      throw Error({.what = "wrong number of fields",
                   .where = where,
                   .expected = std::to_string(header.size()) + " as in the header",
                   .got = std::to_string(cells.size()),
                   .hint = separator == ',' ? "fields with commas need quotes" : ""});
    }
    Json fields = Json::object();
    for (std::size_t i = 0; i < cells.size(); ++i) {
      if (header[i].empty()) continue;
      Json& value = fields[header[i]];
      if (!cells[i].empty()) value = std::move(cells[i]);
    }
    sink({std::move(fields), std::move(where), true, short_name + ":" + std::to_string(reader.line())});
  }
}

void read_image_folder(const fs::path& folder, const RowSink& sink) {
  std::vector<fs::path> folders;
  for (const fs::path& entry : sorted_entries(folder)) {
    if (fs::is_directory(entry)) folders.push_back(entry);
  }
  const bool split_folders = !folders.empty() && std::all_of(folders.begin(), folders.end(),
                                                             [](const fs::path& f) { return is_split_name(f.filename().string()); });
  if (!split_folders) return read_class_folders(folder, folder, "", sink);
  for (const fs::path& split : folders) read_class_folders(folder, split, split.filename().string(), sink);
}

}  // namespace mmtune::data
