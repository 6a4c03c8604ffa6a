#include "core/recipe.h"

#include <utf8proc.h>

#include <charconv>
#include <system_error>

#include "core/error.h"
#include "core/files.h"

namespace mmtune {

namespace {

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    utf8proc_int32_t code = 0;
    const auto length =
        utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()), &code);
    if (length <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(length));
  }
  return true;
}

constexpr std::size_t largest_recipe = std::size_t{1} << 20;

[[noreturn]] void bad_assignment(const std::string& assignment, const std::string& expected) {
  throw UsageError({.what = "cannot be understood", .where = "argument '" + printable(assignment) + "'", .expected = expected});
}

/// The segments of a dotted key; a quoted segment may hold anything but a quote. `end` is set behind the equals sign.
std::vector<std::string> split_key(const std::string& assignment, std::size_t& end) {
  std::vector<std::string> segments;
  std::string segment;
  bool quoted = false;
  for (std::size_t i = 0; i < assignment.size(); ++i) {
    const char c = assignment[i];
    if (c == '"') {
      quoted = !quoted;
    } else if (!quoted && (c == '.' || c == '=')) {
      if (segment.empty() || segments.size() >= 16) break;
      segments.push_back(std::move(segment));
      segment.clear();
      if (c == '=') {
        end = i + 1;
        return segments;
      }
    } else {
      segment += c;
    }
  }
  bad_assignment(assignment, "key=value with a dotted key, like train.lr=1e-3");
}

TomlValue parse_value(const std::string& text, const TomlPosition& at) {
  TomlValue value;
  value.kind = TomlValue::Kind::string;
  value.text = text;
  if (text.find('\n') == std::string::npos && !text.empty()) {
    try {
      TomlValue root = parse_toml("value = " + text, *at.source);
      if (root.members.size() == 1) value = std::move(root.members.front().value);
    } catch (const UsageError&) {
      // Not TOML: a bare word such as a path or a model's name.
    }
  }
  // Positions inside the argument would mislead; everything is "the argument".
  const auto relocate = [&at](auto&& self, TomlValue& node) -> void {
    node.at = at;
    for (TomlValue& item : node.items) self(self, item);
    for (TomlMember& member : node.members) {
      member.at = at;
      self(self, member.value);
    }
  };
  relocate(relocate, value);
  const bool quoted_string = value.kind == TomlValue::Kind::string && value.text != text;
  if (!quoted_string && value.kind != TomlValue::Kind::table) value.typed = text;
  return value;
}

std::optional<std::size_t> as_index(const std::string& text) {
  std::size_t index = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), index);
  if (result.ec != std::errc{} || result.ptr != text.data() + text.size()) return std::nullopt;
  return index;
}

}  // namespace

void apply_assignment(TomlValue& root, const std::string& assignment) {
  if (!is_utf8(assignment)) bad_assignment(assignment, "text in UTF-8");
  std::size_t end = 0;
  const std::vector<std::string> segments = split_key(assignment, end);
  const TomlPosition at{std::make_shared<const std::string>("argument '" + printable(assignment) + "'"), 0, 0};
  TomlValue value = parse_value(assignment.substr(end), at);

  TomlValue* node = &root;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    const std::string& segment = segments[i];
    if (node->kind == TomlValue::Kind::array) {
      // Into a list of tables: by number, or directly where there is only one.
      if (const auto index = as_index(segment)) {
        if (*index >= node->items.size()) {
          bad_assignment(assignment, "a number below " + std::to_string(node->items.size()) + " in place of " + segment);
        }
        node = &node->items[*index];
        if (i + 1 < segments.size()) continue;
        *node = std::move(value);
        return;
      }
      if (node->items.size() != 1) {
        bad_assignment(assignment, "the number of one of the " + std::to_string(node->items.size()) + " tables before '" + segment + "'");
      }
      node = &node->items.front();
    }
    if (node->kind != TomlValue::Kind::table) bad_assignment(assignment, "a table where '" + segment + "' is to be set");
    TomlValue* member = node->find(segment);
    if (member == nullptr) {
      TomlValue fresh;
      fresh.at = at;
      node->members.push_back({segment, at, std::move(fresh)});
      member = &node->members.back().value;
    }
    if (i + 1 == segments.size()) {
      *member = std::move(value);
      return;
    }
    node = member;
  }
}

TomlValue load_recipe(const std::filesystem::path& path, std::span<const std::string> assignments) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    throw UsageError({.what = "is a folder", .where = path.string(), .expected = "a recipe (a TOML file)"});
  }
  std::string text;
  try {
    text = read_file(path, largest_recipe);
  } catch (const Error& failure) {
    throw UsageError(failure.parts());
  }
  TomlValue root = parse_toml(text, path.string());
  for (const std::string& assignment : assignments) apply_assignment(root, assignment);
  return root;
}

}  // namespace mmtune
