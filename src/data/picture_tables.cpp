#include "data/picture_tables.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>
#include <vector>

#include "core/error.h"
#include "data/csv.h"

namespace mmtune::data {

namespace {

constexpr std::size_t kLongestLine = std::size_t{256} << 20;

std::vector<std::string_view> parted(std::string_view text, std::string_view by) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t end = text.find(by);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + by.size());
  }
}

bool is_picture(std::string_view cell) {
  constexpr std::size_t kShortest = 32;
  return cell.size() >= kShortest &&
         (cell.starts_with("/9j/") || cell.starts_with("_9j_") || cell.starts_with("iVBORw0KGgo") || cell.starts_with("UklGR"));
}

std::optional<double> number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && std::isfinite(value) ? std::optional(value) : std::nullopt;
}

/// A line of the file.
class Line {
 public:
  Line(std::string_view text, std::string where) : cells_(parted(text, "\t")), where_(std::move(where)) {
    for (std::size_t i = 0; i < cells_.size(); ++i) {
      if (!is_picture(cells_[i]) && !is_utf8(cells_[i])) fail("column " + std::to_string(i + 1) + " is not UTF-8");
    }
  }

  /// The row's fields but for the picture's place.
  Json fields() {
    Json fields = Json::object();
    const auto set = [&](const char* name, std::size_t column) {
      if (!cells_[column].empty()) fields[name] = std::string(cells_[column]);
    };
    set("id", 0);
    if (cells_.size() == 3 && is_picture(cells_[1])) {
      picture_ = 1;
      set("label", 2);
      return fields;
    }
    if (cells_.size() != 5 && cells_.size() != 6) unknown();
    picture_ = is_picture(cells_[2]) ? 2 : cells_.size() - 1;
    if (!is_picture(cells_[picture_])) unknown();
    set("image_id", 1);
    if (picture_ == 2) {
      if (cells_.size() != 6) unknown();
      set("text", 3);
      set("caption", 4);
      set("label", 5);
    } else if (cells_.size() == 6) {
      set("text", 2);
      take_answers(cells_[3], fields);
      take_objects(cells_[4], fields);
    } else if (is_region(cells_[3])) {
      set("text", 2);
      set("region", 3);
    } else {
      take_captions(cells_[2], fields);
      take_objects(cells_[3], fields);
    }
    return fields;
  }

  std::string_view picture() const { return cells_[picture_]; }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw Error({.what = what, .where = where_}); }
  [[noreturn]] void unknown() const {
    throw Error({.what = "not a row of a table with pictures",
                 .where = where_,
                 .expected = "3, 5 or 6 columns, one of them a picture in base64",
                 .got = std::to_string(cells_.size()) + " columns"});
  }

  bool is_region(std::string_view text) const {
    const auto sides = parted(text, ",");
    std::size_t numbers = 0;
    for (const auto side : sides) numbers += number(side) ? 1 : 0;
    if (numbers == sides.size() && sides.size() != 4) fail("a region is not four numbers");
    return numbers == 4 && sides.size() == 4;
  }

  static void take_objects(std::string_view text, Json& fields) {
    std::string objects;
    for (const auto object : parted(text, "&&")) {
      if (!object.empty()) (objects += objects.empty() ? "" : " ") += object;
    }
    if (!objects.empty()) fields["objects"] = objects;
  }

  static void take_captions(std::string_view text, Json& fields) {
    for (const auto caption : parted(text, "&&")) {
      if (caption.empty()) continue;
      if (!fields.contains("text")) fields["text"] = std::string(caption);
      fields["answers"].push_back(std::string(caption));
    }
  }

  void take_answers(std::string_view text, Json& fields) const {
    double best = -1;
    for (const auto answer : parted(text, "&&")) {
      if (answer.empty()) continue;
      const std::size_t mark = answer.find("|!+");
      const auto confidence = number(answer.substr(0, mark));
      if (mark == std::string_view::npos || !confidence) fail("an answer must be CONFIDENCE|!+TEXT");
      const std::string own(answer.substr(mark + 3));
      fields["confidences"][own] = *confidence;
      if (*confidence > best) fields["answer"] = own;
      best = std::max(best, *confidence);
    }
  }

  std::vector<std::string_view> cells_;
  std::string where_;
  std::size_t picture_ = 0;
};

}  // namespace

bool is_picture_table(std::string_view first_line) {
  for (const auto cell : parted(first_line, "\t"))
    if (is_picture(cell)) return true;
  return false;
}

void read_picture_table(const std::filesystem::path& path, const RowSink& sink) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw Error({.what = std::string("cannot be opened: ") + std::strerror(errno), .where = path.string()});
  const std::string name = path.filename().string();
  std::string line;
  std::uint64_t begin = 0;
  for (std::size_t count = 1; std::getline(in, line); ++count) {
    const std::uint64_t next = begin + line.size() + 1;
    std::string where = path.string() + ":" + std::to_string(count);
    if (line.size() > kLongestLine) throw Error({.what = "the line is longer than 256 MiB", .where = where});
    if (line.ends_with('\r')) line.pop_back();
    if (!line.empty()) {
      Line row(line, where);
      Json fields = row.fields();
      fields["shard"] = name;
      fields["offset"] = begin + static_cast<std::uint64_t>(row.picture().data() - line.data());
      fields["size"] = row.picture().size();
      fields["encoding"] = "base64";
      sink({std::move(fields), std::move(where), true, name + ":" + std::to_string(count)});
    }
    begin = next;
  }
}

}  // namespace mmtune::data
