#include "data/layouts.h"

#include <array>
#include <utility>

#include "core/error.h"

namespace mmtune::data {

namespace {

const Json& list_of(const Json& object, const std::string& key, const std::string& where) {
  const Json& list = object.at(key);
  if (!list.is_array())
    throw Error({.what = "key \"" + key + "\" has the wrong type", .where = where, .expected = "a list", .got = list.type_name()});
  return list;
}

std::string item(const std::string& where, const std::string& key, std::size_t number) {
  return where + ": " + key + " " + std::to_string(number);
}

/// CLEVR's pictures lie in a folder beside that of scenes and questions.
void add_clevr_image(Json& row) {
  const auto file = row.find("image_filename"), split = row.find("split");
  if (file == row.end() || split == row.end() || !file->is_string() || !split->is_string() || row.contains("image")) return;
  row["image"] = "../images/" + split->get<std::string>() + "/" + file->get<std::string>();
}

void entries(Json& object, const std::string& key, const std::string& where, const std::string& name, const RowSink& sink) {
  list_of(object, key, where);
  std::size_t number = 0;
  for (Json& entry : object[key]) {
    ++number;
    const std::string own = item(where, key, number);
    if (!entry.is_object()) throw Error({.what = "an entry must be an object", .where = own, .got = entry.type_name()});
    const auto answers = entry.find("answers");
    if (answers != entry.end() && answers->is_array()) {
      for (Json& answer : *answers)
        if (answer.is_object() && answer.contains("answer")) answer = Json(answer["answer"]);
    }
    add_clevr_image(entry);
    sink({std::move(entry), own, false, name + ":" + std::to_string(number)});
  }
}

void scenes(const Json& object, const std::string& where, const std::string& name, const RowSink& sink) {
  std::size_t number = 0;
  for (const Json& scene : list_of(object, "scenes", where)) {
    ++number;
    const std::string own = item(where, "scenes", number);
    const bool whole = scene.is_object() && scene.contains("image_filename") && scene["image_filename"].is_string() &&
                       scene.contains("objects") && scene["objects"].is_array();
    if (!whole) throw Error({.what = "a scene needs an image_filename and objects", .where = own});
    Json fields = {{"image_filename", scene["image_filename"]}, {"count", scene["objects"].size()}};
    for (const char* key : {"split", "image_index"})
      if (scene.contains(key)) fields[key] = scene[key];
    add_clevr_image(fields);
    sink({std::move(fields), own, false, name + ":" + std::to_string(number)});
  }
}

void sentences(const Json& object, const std::string& where, const std::string& name, const RowSink& sink) {
  std::size_t number = 0;
  for (const Json& image : list_of(object, "images", where)) {
    ++number;
    const std::string own = item(where, "images", number);
    if (!image.is_object() || !image.contains("filename") || !image["filename"].is_string() || !image.contains("sentences") ||
        !image["sentences"].is_array())
      throw Error({.what = "an image needs a filename and sentences", .where = own});
    std::string path = image["filename"].get<std::string>();
    if (image.contains("filepath") && image["filepath"].is_string()) path = image["filepath"].get<std::string>() + "/" + path;
    std::size_t place = 0;
    for (const Json& sentence : image["sentences"]) {
      ++place;
      if (!sentence.is_object() || !sentence.contains("raw") || !sentence["raw"].is_string())
        throw Error({.what = "a sentence needs its \"raw\" text", .where = own + ", sentence " + std::to_string(place)});
      Json fields = {{"image", path}, {"text", sentence["raw"]}};
      for (const char* key : {"split", "imgid"})
        if (image.contains(key)) fields[key] = image[key];
      if (sentence.contains("sentid")) fields["sentid"] = sentence["sentid"];
      sink({std::move(fields), own + ", sentence " + std::to_string(place), false,
            name + ":" + std::to_string(number) + "." + std::to_string(place)});
    }
  }
}

}  // namespace

bool read_layout(Json& object, const std::string& where, const std::string& name, const RowSink& sink) {
  for (const char* key : {"questions", "annotations"}) {
    if (!object.contains(key)) continue;
    entries(object, key, where, name, sink);
    return true;
  }
  if (object.contains("scenes")) {
    scenes(object, where, name, sink);
    return true;
  }
  if (!object.contains("images")) return false;
  sentences(object, where, name, sink);
  return true;
}

std::optional<std::string> imagenette_name(std::string_view folder) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 10> kNames = {{{"n01440764", "tench"},
                                                                                            {"n02102040", "English springer"},
                                                                                            {"n02979186", "cassette player"},
                                                                                            {"n03000684", "chain saw"},
                                                                                            {"n03028079", "church"},
                                                                                            {"n03394916", "French horn"},
                                                                                            {"n03417042", "garbage truck"},
                                                                                            {"n03425413", "gas pump"},
                                                                                            {"n03445777", "golf ball"},
                                                                                            {"n03888257", "parachute"}}};
  for (const auto& [known, name] : kNames)
    if (known == folder) return std::string(name);
  return std::nullopt;
}

void name_pictures(Json& row) {
  const auto identifier = row.find("identifier");
  if (identifier == row.end() || !identifier->is_string() || !row.contains("sentence")) return;
  const auto& text = identifier->get_ref<const std::string&>();
  const std::size_t end = text.rfind('-');
  if (end == std::string::npos || end == 0) return;
  const std::string stem = text.substr(0, end);
  if (!row.contains("left")) row["left"] = stem + "-img0.png";
  if (!row.contains("right")) row["right"] = stem + "-img1.png";
}

}  // namespace mmtune::data
