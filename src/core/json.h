#pragma once
// JSON as strict as hostile files need: duplicate keys, invalid UTF-8 and absurd nesting are refused.

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace mmtune {

using Json = nlohmann::json;

/// Parses `text` whole. Throws Error{where = `where`} on a syntax error, a duplicate key within one object, invalid UTF-8,
/// or nesting deeper than `max_depth`.
Json parse_json(std::string_view text, const std::string& where, int max_depth = 64);

/// Reads and parses a file of at most `max_bytes`. Throws Error naming the file.
Json read_json_file(const std::filesystem::path& path, std::size_t max_bytes = std::size_t{256} << 20);

}  // namespace mmtune
