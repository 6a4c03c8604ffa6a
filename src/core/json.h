#pragma once
// JSON as strict as hostile files need: duplicate keys, invalid UTF-8 and absurd nesting are refused.

#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace mmtune {

using Json = nlohmann::json;

/// Parses `text` whole. Throws Error{where = `where`} on a syntax error, a duplicate key within one object, invalid UTF-8, a NUL byte, a
/// byte order mark, or nesting deeper than `max_depth`. Integers outside 64 bits become floating-point numbers: ask is_number_unsigned().
Json parse_json(std::string_view text, const std::string& where, int max_depth = 64);

/// Reads and parses a file of at most `max_bytes`. Throws Error naming the file.
Json read_json_file(const std::filesystem::path& path, std::size_t max_bytes = std::size_t{256} << 20);

/// For readers with event handlers of their own: what nlohmann's parser would let pass. Throws Error.
void refuse_json_nul(std::string_view text, const std::string& where);
/// The parser's message on one line and without the library's error numbers.
std::string describe_json_error(const std::exception& error);

}  // namespace mmtune
