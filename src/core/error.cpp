#include "core/error.h"

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

}  // namespace

Error::Error(ErrorParts parts) : std::runtime_error(join(parts)), parts_(std::move(parts)) {}

std::string printable(std::string_view text, std::size_t limit) {
  std::string out;
  for (const char c : text.substr(0, limit)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\x%02x", byte);
      out += escaped;
    } else {
      out += c;
    }
  }
  if (text.size() > limit) out += "…";
  return out;
}

void assertion_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "mmtune: internal error: %s does not hold (%s:%d)\n", condition, file, line);
  std::abort();
}

}  // namespace mmtune
