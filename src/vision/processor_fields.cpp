#include "vision/processor_fields.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <utility>

#include "core/error.h"

namespace mmtune::vision {

namespace {

constexpr std::int64_t max_side = 16384;

// By PIL's numbers.
constexpr std::array<std::pair<Filter, std::string_view>, 6> filters = {{{Filter::nearest, "nearest"},
                                                                         {Filter::lanczos, "lanczos"},
                                                                         {Filter::bilinear, "bilinear"},
                                                                         {Filter::bicubic, "bicubic"},
                                                                         {Filter::box, "box"},
                                                                         {Filter::hamming, "hamming"}}};

bool is_side(const Json& value) {
  return value.is_number_integer() && value >= 1 && value <= max_side;
}

}  // namespace

std::string_view filter_name(Filter filter) {
  for (const auto& [candidate, name] : filters) {
    if (candidate == filter) return name;
  }
  return "?";
}

const Json* ProcessorFields::find(const char* key) const {
  const auto found = config_.find(key);
  return found == config_.end() || found->is_null() ? nullptr : &*found;
}

void ProcessorFields::refuse(const char* key, const std::string& expected, const Json& got) const {
  throw Error({.what = std::string(key), .where = where_, .expected = expected, .got = printable(got.dump())});
}

bool ProcessorFields::flag(const char* key, bool standard) const {
  const Json* value = find(key);
  if (value == nullptr) return standard;
  if (!value->is_boolean()) refuse(key, "true or false", *value);
  return value->get<bool>();
}

double ProcessorFields::number(const char* key, double standard) const {
  const Json* value = find(key);
  if (value == nullptr) return standard;
  if (!value->is_number() || !std::isfinite(value->get<double>())) refuse(key, "a number", *value);
  return value->get<double>();
}

std::array<double, 3> ProcessorFields::channels(const char* key, const std::array<double, 3>& standard) const {
  const Json* value = find(key);
  if (value == nullptr) return standard;
  if (value->is_number()) {
    const double all = number(key, 0.0);
    return {all, all, all};
  }
  if (!value->is_array() || value->size() != 3) refuse(key, "a number or three numbers", *value);
  std::array<double, 3> channels{};
  for (std::size_t i = 0; i < 3; ++i) {
    const Json& channel = (*value)[i];
    if (!channel.is_number() || !std::isfinite(channel.get<double>())) refuse(key, "a number or three numbers", *value);
    channels[i] = channel.get<double>();
  }
  return channels;
}

TargetSize ProcessorFields::size(const char* key, TargetSize standard, Number number) const {
  const Json* value = find(key);
  if (value == nullptr) return standard;
  if (is_side(*value)) {
    const auto side = value->get<std::int64_t>();
    return number == Number::square ? TargetSize{.height = side, .width = side} : TargetSize{.shortest_edge = side};
  }
  if (value->is_array() && value->size() == 2 && is_side((*value)[0]) && is_side((*value)[1])) {
    return {.height = (*value)[0].get<std::int64_t>(), .width = (*value)[1].get<std::int64_t>()};
  }
  if (value->is_object()) {
    // transformers 5 writes the other ways to give a size beside the one that counts, as null.
    const auto only = [&](std::initializer_list<const char*> names) {
      std::size_t found = 0;
      for (const auto& [name, side] : value->items()) {
        if (side.is_null()) continue;
        const bool wanted = std::any_of(names.begin(), names.end(), [&name = name](const char* one) { return name == one; });
        if (!wanted || !is_side(side)) return false;
        ++found;
      }
      return found == names.size();
    };
    if (only({"height", "width"}))
      return {.height = (*value)["height"].get<std::int64_t>(), .width = (*value)["width"].get<std::int64_t>()};
    if (only({"shortest_edge"})) return {.shortest_edge = (*value)["shortest_edge"].get<std::int64_t>()};
  }
  refuse(key, "n, [height, width], {\"height\", \"width\"} or {\"shortest_edge\"} with sides from 1 to " + std::to_string(max_side),
         *value);
}

Filter ProcessorFields::filter(const char* key, Filter standard) const {
  const Json* value = find(key);
  if (value == nullptr) return standard;
  if (!value->is_number_integer() || *value < 0 || *value >= filters.size()) {
    refuse(key, "0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box or 5 hamming", *value);
  }
  return filters[value->get<std::size_t>()].first;
}

}  // namespace mmtune::vision
