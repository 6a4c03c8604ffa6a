#pragma once
// Base64 (RFC 4648): pictures in TSV files, tables in JSON.

#include <string>
#include <string_view>

namespace mmtune {

/// The bytes of base64 text in the standard or the URL-safe alphabet, padding at the end or none; white space is left out. Throws Error
/// naming `where` on any other character, on bits left over, or on a length that no bytes give.
std::string decode_base64(std::string_view text, const std::string& where);

}  // namespace mmtune
