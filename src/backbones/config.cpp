#include "backbones/config.h"

#include "core/error.h"

namespace mmtune::backbones {

namespace {

constexpr std::int64_t largest_dimension = std::int64_t{1} << 31;

}  // namespace

const Json* Config::find(const std::string& key) const {
  const auto found = json_->find(key);
  return found == json_->end() || found->is_null() ? nullptr : &*found;
}

void Config::wrong(const std::string& key, const std::string& expected) const {
  const Json* value = find(key);
  throw Error({.what = "config key \"" + key + "\" is " + (value ? "wrong" : "missing"),
               .where = where_,
               .expected = expected,
               .got = value ? printable(value->dump(-1, ' ', false, Json::error_handler_t::replace)) : ""});
}

std::int64_t Config::integer(const std::string& key) const {
  const Json* value = find(key);
  if (!value || !value->is_number_integer() || value->get<std::int64_t>() < 1 || value->get<std::int64_t>() > largest_dimension)
    wrong(key, "a positive integer");
  return value->get<std::int64_t>();
}

std::int64_t Config::integer(const std::string& key, std::int64_t fallback) const {
  return find(key) ? integer(key) : fallback;
}

double Config::number(const std::string& key, double fallback) const {
  const Json* value = find(key);
  if (!value) return fallback;
  if (!value->is_number()) wrong(key, "a number");
  return value->get<double>();
}

std::int64_t Config::token(const std::string& key, std::int64_t fallback) const {
  const Json* value = find(key);
  if (!value) return fallback;
  if (value->is_array() && !value->empty()) value = &value->front();
  if (!value->is_number_integer()) wrong(key, "a token's number, or a list of them");
  return value->get<std::int64_t>();
}

bool Config::flag(const std::string& key, bool fallback) const {
  const Json* value = find(key);
  if (!value) return fallback;
  if (!value->is_boolean()) wrong(key, "true or false");
  return value->get<bool>();
}

std::string Config::text(const std::string& key, const std::string& fallback) const {
  const Json* value = find(key);
  if (!value) return fallback;
  if (!value->is_string()) wrong(key, "a string");
  return value->get<std::string>();
}

std::pair<std::int64_t, std::int64_t> Config::size(const std::string& key) const {
  const Json* value = find(key);
  if (value && value->is_array() && value->size() == 2 && (*value)[0].is_number_integer() && (*value)[1].is_number_integer()) {
    const auto height = (*value)[0].get<std::int64_t>(), width = (*value)[1].get<std::int64_t>();
    if (height < 1 || width < 1 || height > largest_dimension || width > largest_dimension) wrong(key, "positive sizes");
    return {height, width};
  }
  const std::int64_t side = integer(key);
  return {side, side};
}

std::pair<std::int64_t, std::int64_t> Config::size(const std::string& key, std::int64_t fallback) const {
  return find(key) ? size(key) : std::pair{fallback, fallback};
}

std::vector<std::int64_t> Config::integers(const std::string& key, std::size_t count) const {
  const Json* value = find(key);
  const std::string expected = count == 0 ? "a list of positive integers" : std::to_string(count) + " positive integers";
  if (!value || !value->is_array() || value->empty() || (count != 0 && value->size() != count)) wrong(key, expected);
  std::vector<std::int64_t> result;
  for (const Json& one : *value) {
    if (!one.is_number_integer() || one < 1 || one > largest_dimension) wrong(key, expected);
    result.push_back(one.get<std::int64_t>());
  }
  return result;
}

Config Config::section(const std::string& key) const {
  const Json* value = find(key);
  if (!value || !value->is_object()) wrong(key, "an object");
  return {*value, where_ + " (" + key + ")"};
}

void Config::require(const std::string& key, const Json& only) const {
  const Json* value = find(key);
  if (value && *value != only) wrong(key, only.dump() + " (nothing else is supported)");
}

}  // namespace mmtune::backbones
