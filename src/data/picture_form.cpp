#include "data/picture_form.h"

#include "core/base64.h"
#include "core/error.h"

namespace mmtune::data {

namespace {

constexpr std::int64_t kLongestSide = 65'500;

std::int64_t side_of(const Json& fields, const char* key, const std::string& where) {
  const auto found = fields.find(key);
  if (found != fields.end() && found->is_number_integer() && found->get<std::int64_t>() >= 1 &&
      found->get<std::int64_t>() <= kLongestSide) {
    return found->get<std::int64_t>();
  }
  throw Error({.what = std::string("field '") + key + "'", .where = where, .expected = "the picture's side in pixels"});
}

}  // namespace

RawPicture read_picture_form(const Json& fields, std::uint64_t size, const std::string& where) {
  const auto found = fields.find("encoding");
  if (found == fields.end() || found->is_null()) return {};
  const std::string name = found->is_string() ? found->get<std::string>() : found->dump();
  if (name == "base64") return {.form = PictureForm::base64};
  if (name != "planar_rgb" && name != "packed_rgb") {
    throw Error({.what = "field 'encoding'",
                 .where = where,
                 .expected = "base64, planar_rgb or packed_rgb",
                 .got = "'" + printable(name, 40) + "'"});
  }
  const RawPicture raw{.form = name == "planar_rgb" ? PictureForm::planar_rgb : PictureForm::packed_rgb,
                       .width = side_of(fields, "width", where),
                       .height = side_of(fields, "height", where)};
  const auto expected = static_cast<std::uint64_t>(raw.width * raw.height * 3);
  if (size != expected) {
    throw Error({.what = "field 'size'",
                 .where = where,
                 .expected = std::to_string(expected) + " bytes of raw pixels",
                 .got = std::to_string(size)});
  }
  return raw;
}

std::string encoded_picture(std::string bytes, const RawPicture& form, const std::string& where) {
  if (form.form == PictureForm::encoded) return bytes;
  if (form.form == PictureForm::base64) return decode_base64(bytes, where);
  std::string made = "P6\n" + std::to_string(form.width) + " " + std::to_string(form.height) + "\n255\n";
  const auto area = static_cast<std::size_t>(form.width * form.height);
  if (bytes.size() != 3 * area) throw Error({.what = "raw pixels of another size than the picture", .where = where});
  if (form.form == PictureForm::packed_rgb) return made + bytes;
  const std::size_t begin = made.size();
  made.resize(begin + 3 * area);
  for (std::size_t pixel = 0; pixel < area; ++pixel)
    for (std::size_t channel = 0; channel < 3; ++channel) made[begin + 3 * pixel + channel] = bytes[channel * area + pixel];
  return made;
}

}  // namespace mmtune::data
