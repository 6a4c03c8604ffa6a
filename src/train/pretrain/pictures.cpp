#include "train/pretrain/pictures.h"

#include <cmath>
#include <map>
#include <system_error>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/json.h"

namespace mmtune::train {

namespace {

namespace fs = std::filesystem;

[[noreturn]] void wrong(const std::string& where, const char* key, const std::string& expected) {
  throw Error({.what = std::string("\"") + key + "\" has the wrong type or value", .where = where, .expected = expected});
}

std::uint64_t natural(const Json& row, const char* key, const std::string& where) {
  if (!row.contains(key)) return 0;
  if (!row[key].is_number_unsigned()) wrong(where, key, "a whole number of at least 0");
  return row[key].get<std::uint64_t>();
}

Picture read_row(const Json& row, const fs::path& folder, const std::string& where) {
  if (!row.is_object()) throw Error({.what = "not a JSON object", .where = where});
  Picture picture;
  if (!row.contains("image") || !row["image"].is_string() || row["image"].get<std::string>().empty())
    wrong(where, "image", "the path of a picture");
  const auto image = row["image"].get<std::string>();
  // A '#' behind ".tar" separates the member; anywhere else it is part of a file's name.
  const std::size_t archive = image.find(".tar#");
  picture.image.file = folder / image.substr(0, archive == std::string::npos ? archive : archive + 4);
  if (archive != std::string::npos) picture.image.member = image.substr(archive + 5);
  picture.image.offset = natural(row, "offset", where);
  picture.image.size = natural(row, "size", where);
  picture.id = image;
  if (row.contains("id")) {
    if (!row["id"].is_string()) wrong(where, "id", "a string");
    picture.id = row["id"].get<std::string>();
  }
  if (row.contains("texts")) {
    if (!row["texts"].is_array()) wrong(where, "texts", "a list of strings");
    for (const Json& text : row["texts"]) {
      if (!text.is_string() || text.get<std::string>().empty()) wrong(where, "texts", "a list of strings that are not empty");
      picture.texts.push_back(text.get<std::string>());
    }
  }
  if (row.contains("questions")) {
    const auto said = [](const Json& text) { return text.is_string() && !text.get<std::string>().empty(); };
    if (!row["questions"].is_array()) wrong(where, "questions", "a list of [question, answer]");
    for (const Json& pair : row["questions"]) {
      if (!pair.is_array() || pair.size() != 2 || !said(pair[0]) || !said(pair[1]))
        wrong(where, "questions", "a list of [question, answer], neither of them empty");
      picture.questions.emplace_back(pair[0].get<std::string>(), pair[1].get<std::string>());
    }
  }
  if (row.contains("weight")) {
    if (!row["weight"].is_number()) wrong(where, "weight", "a number of at least 0");
    picture.weight = row["weight"].get<double>();
    if (!(picture.weight >= 0) || !std::isfinite(picture.weight)) wrong(where, "weight", "a number of at least 0");
  }
  if (row.contains("mirror")) {
    if (!row["mirror"].is_boolean()) wrong(where, "mirror", "true or false");
    picture.mirror = row["mirror"].get<bool>();
  }
  return picture;
}

}  // namespace

PictureList read_pictures(const fs::path& path) {
  const std::string text = read_file(path);
  PictureList list;
  Fingerprint fingerprint;
  std::map<fs::path, std::uintmax_t> sizes;
  double total = 0;
  std::int64_t number = 0;
  for (std::size_t begin = 0; begin < text.size(); ++number) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = path.string() + ":" + std::to_string(number + 1);
    Picture picture = read_row(parse_json(line, where), path.parent_path(), where);
    const auto [known, added] = sizes.try_emplace(picture.image.file, 0);
    if (added) {
      std::error_code error;
      known->second = fs::file_size(picture.image.file, error);
      if (error) throw Error({.what = "cannot read the picture's file: " + error.message(), .where = where, .got = known->first.string()});
    }
    fingerprint.add_field(line).add_field(static_cast<std::int64_t>(known->second));
    total += picture.weight;
    list.pictures.push_back(std::move(picture));
  }
  if (!(total > 0)) throw Error({.what = "no picture with a weight above 0", .where = path.string()});
  list.fingerprint = fingerprint.hex();
  return list;
}

}  // namespace mmtune::train
