#include "core/error.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace mmtune {

namespace {

std::string join(const ErrorParts& parts) {
  std::string line;
  if (!parts.where.empty()) line += parts.where + ": ";
  line += parts.what;
  if (!parts.expected.empty()) line += ": expected " + parts.expected;
  if (!parts.got.empty()) line += (parts.expected.empty() ? ": got " : ", got ") + parts.got;
  if (!parts.hint.empty()) line += " (" + parts.hint + ")";
  return line;
}

/// Bytes of the printable character that `text` begins with; 0 for a control character and for what is not UTF-8.
std::size_t character_length(std::string_view text) {
  const auto byte = [&](std::size_t i) -> unsigned { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0; };
  const unsigned first = byte(0);
  if (first < 0x80) return first >= 0x20 && first != 0x7f ? 1 : 0;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  unsigned code = first & (0xffU >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3f);
  }
  const bool overlong = code < (length == 2 ? 0x80U : length == 3 ? 0x800U : 0x10000U);
  const bool surrogate = code >= 0xd800 && code < 0xe000;
  const bool control = code < 0xa0 || code == 0x2028 || code == 0x2029;  // the other line breaks of Unicode
  return first < 0xc0 || first > 0xf4 || overlong || surrogate || control || code > 0x10ffff ? 0 : length;
}

}  // namespace

Error::Error(ErrorParts parts) : std::runtime_error(join(parts)), parts_(std::move(parts)) {}

std::string printable(std::string_view text, std::size_t limit) {
  std::string out;
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t length = character_length(text.substr(at));
    if (at + std::max<std::size_t>(length, 1) > limit) return out + "…";
    if (length > 0) {
      out += text.substr(at, length);
    } else {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<unsigned char>(text[at]));
      out += escaped;
    }
    at += std::max<std::size_t>(length, 1);
  }
  return out;
}

void assertion_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "mmtune: internal error: %s does not hold (%s:%d)\n", condition, file, line);
  std::abort();
}

}  // namespace mmtune
