#include "core/json.h"

#include <utility>
#include <vector>

#include "core/error.h"
#include "core/files.h"

namespace mmtune {

namespace {

/// Builds the value from parse events, so that what a plain parse lets pass (a repeated key, any depth) can be refused.
class StrictBuilder : public nlohmann::json_sax<Json> {
 public:
  StrictBuilder(std::string where, int max_depth) : where_(std::move(where)), max_depth_(max_depth) {}

  Json take() { return std::move(root_); }

  bool null() override { return place(nullptr); }
  bool boolean(bool value) override { return place(value); }
  bool number_integer(number_integer_t value) override { return place(value); }
  bool number_unsigned(number_unsigned_t value) override { return place(value); }
  bool number_float(number_float_t value, const string_t& /*spelling*/) override { return place(value); }
  bool string(string_t& value) override { return place(std::move(value)); }
  bool binary(binary_t& /*value*/) override { return false; }

  bool start_object(std::size_t /*elements*/) override { return open(Json::object()); }
  bool start_array(std::size_t /*elements*/) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    const auto [slot, inserted] = open_.back()->get_ref<Json::object_t&>().emplace(std::move(name), nullptr);
    if (!inserted) throw Error({.what = "the key '" + printable(slot->first) + "' is there twice in one object", .where = where_});
    slot_ = &slot->second;
    return true;
  }

  bool parse_error(std::size_t /*position*/, const std::string& /*last_token*/, const nlohmann::detail::exception& error) override {
    throw Error({.what = "invalid JSON: " + describe_json_error(error), .where = where_});
  }

 private:
  Json* put(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      auto& array = open_.back()->get_ref<Json::array_t&>();
      array.push_back(std::move(value));
      return &array.back();
    }
    *slot_ = std::move(value);
    return slot_;
  }

  bool place(Json value) {
    put(std::move(value));
    return true;
  }

  bool open(Json container) {
    if (static_cast<int>(open_.size()) >= max_depth_) {
      throw Error({.what = "JSON nested too deep", .where = where_, .expected = "at most " + std::to_string(max_depth_) + " levels"});
    }
    // The address stays valid: a container is touched again only after everything inside it is closed.
    open_.push_back(put(std::move(container)));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::string where_;
  int max_depth_;
  Json root_;
  std::vector<Json*> open_;
  Json* slot_ = nullptr;
};

}  // namespace

std::string describe_json_error(const std::exception& error) {
  std::string_view text = error.what();
  if (const auto bracket = text.find("] "); text.starts_with('[') && bracket != std::string_view::npos) text.remove_prefix(bracket + 2);
  return printable(text, 300);
}

void refuse_json_nul(std::string_view text, const std::string& where) {
  // The parser takes a NUL byte for the end of the input and would let anything behind it pass.
  if (const auto nul = text.find('\0'); nul != std::string_view::npos) {
    throw Error({.what = "invalid JSON: a NUL byte at offset " + std::to_string(nul), .where = where});
  }
  if (text.starts_with("\xef\xbb\xbf")) {
    throw Error({.what = "invalid JSON: a byte order mark in front", .where = where, .hint = "save the file as UTF-8 without BOM"});
  }
}

Json parse_json(std::string_view text, const std::string& where, int max_depth) {
  refuse_json_nul(text, where);
  StrictBuilder builder(where, max_depth);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

Json read_json_file(const std::filesystem::path& path, std::size_t max_bytes) {
  return parse_json(read_file(path, max_bytes), path.string());
}

}  // namespace mmtune
