#include "text/json_fields.h"

#include <algorithm>

#include "core/error.h"

namespace mmtune::text {

JsonFields::JsonFields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
  if (!object.is_object()) throw Error({.what = "wrong type", .where = where_, .expected = "an object", .got = shown(object)});
}

const Json& JsonFields::any(std::string_view key) {
  ignore(key);
  const auto found = object_.find(std::string(key));
  if (found == object_.end()) throw Error({.what = "missing key '" + std::string(key) + "'", .where = where_});
  return *found;
}

std::string JsonFields::string(std::string_view key) {
  const Json& value = any(key);
  if (!value.is_string()) fail(key, "a string", value);
  return value.get<std::string>();
}

bool JsonFields::boolean(std::string_view key) {
  const Json& value = any(key);
  if (!value.is_boolean()) fail(key, "true or false", value);
  return value.get<bool>();
}

std::int64_t JsonFields::integer(std::string_view key, std::int64_t low, std::int64_t high) {
  const Json& value = any(key);
  const std::string expected = "an integer from " + std::to_string(low) + " to " + std::to_string(high);
  if (!value.is_number_integer()) fail(key, expected, value);
  // A number beyond int64 is stored as unsigned and would come out negative.
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(high)) fail(key, expected, value);
  const auto number = value.get<std::int64_t>();
  if (number < low || number > high) fail(key, expected, value);
  return number;
}

const Json& JsonFields::array(std::string_view key) {
  const Json& value = any(key);
  if (!value.is_array()) fail(key, "a list", value);
  return value;
}

const Json& JsonFields::object(std::string_view key) {
  const Json& value = any(key);
  if (!value.is_object()) fail(key, "an object", value);
  return value;
}

const Json* JsonFields::optional(std::string_view key) {
  ignore(key);
  const auto found = object_.find(std::string(key));
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

bool JsonFields::boolean_or(std::string_view key, bool otherwise) {
  return optional(key) == nullptr ? otherwise : boolean(key);
}

void JsonFields::ignore(std::string_view key) {
  known_.emplace_back(key);
}

void JsonFields::finish() const {
  for (const auto& [key, value] : object_.items()) {
    if (std::find(known_.begin(), known_.end(), key) == known_.end()) {
      throw Error({.what = "unsupported setting '" + printable(key) + "'", .where = where_, .got = shown(value)});
    }
  }
}

void JsonFields::fail(std::string_view key, std::string expected, const Json& got) const {
  throw Error({.what = "wrong value of '" + std::string(key) + "'", .where = where_, .expected = std::move(expected), .got = shown(got)});
}

std::string shown(const Json& value) {
  if (value.is_structured()) return value.is_array() ? "a list" : "an object";
  return printable(value.dump(-1, ' ', false, Json::error_handler_t::replace), 60);
}

void refuse_component(const std::string& where, const std::string& type, std::string supported) {
  throw Error({.what = "unsupported component '" + printable(type, 60) + "'", .where = where, .expected = std::move(supported)});
}

}  // namespace mmtune::text
