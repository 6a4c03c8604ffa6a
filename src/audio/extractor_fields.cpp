#include "audio/extractor_fields.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace mmtune::audio {

const Json* ExtractorFields::find(const char* key) const {
  const auto found = config_.find(key);
  return found == config_.end() || found->is_null() ? nullptr : &*found;
}

void ExtractorFields::wrong(const char* key, const std::string& expected, const Json& got) const {
  throw Error(
      {.what = key, .where = where_, .expected = expected, .got = printable(got.dump(-1, ' ', false, Json::error_handler_t::replace))});
}

bool ExtractorFields::flag(const char* key, bool standard) const {
  const Json* value = find(key);
  if (value == nullptr) return standard;
  if (!value->is_boolean()) wrong(key, "true or false", *value);
  return value->get<bool>();
}

double ExtractorFields::number(const char* key, double standard) const {
  const Json* value = find(key);
  if (value == nullptr) return standard;
  if (!value->is_number() || !std::isfinite(value->get<double>())) wrong(key, "a number", *value);
  return value->get<double>();
}

std::int64_t ExtractorFields::integer(const char* key, std::int64_t standard, std::int64_t low, std::int64_t high) const {
  const Json* value = find(key);
  if (value == nullptr) return standard;
  if (!value->is_number_integer() || *value < low || *value > high)
    wrong(key, "an integer from " + std::to_string(low) + " to " + std::to_string(high), *value);
  return value->get<std::int64_t>();
}

std::string ExtractorFields::text(const char* key, const std::string& standard, const std::vector<std::string>& known) const {
  const Json* value = find(key);
  if (value == nullptr) return standard;
  if (!value->is_string() || std::find(known.begin(), known.end(), value->get<std::string>()) == known.end()) {
    std::string list;
    for (const std::string& one : known) list += (list.empty() ? "\"" : ", \"") + one + "\"";
    wrong(key, list, *value);
  }
  return value->get<std::string>();
}

void ExtractorFields::refuse(const std::string& fault) const {
  if (!fault.empty()) throw Error({.what = fault, .where = where_});
}

}  // namespace mmtune::audio
