#include "core/base64.h"

#include <array>
#include <cstdint>

#include "core/error.h"

namespace mmtune {

namespace {

constexpr std::int8_t kNone = -1;
constexpr std::int8_t kSpace = -2;

constexpr auto kValues = [] {
  std::array<std::int8_t, 256> values{};
  values.fill(kNone);
  for (const char c : {' ', '\t', '\r', '\n'}) values[static_cast<unsigned char>(c)] = kSpace;
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (std::size_t i = 0; i < kAlphabet.size(); ++i) values[static_cast<unsigned char>(kAlphabet[i])] = static_cast<std::int8_t>(i);
  values['-'] = 62;
  values['_'] = 63;
  return values;
}();

}  // namespace

std::string decode_base64(std::string_view text, const std::string& where) {
  const auto refuse = [&](const std::string& what) { throw Error({.what = "bad base64: " + what, .where = where}); };
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3 + 3);
  std::uint32_t bits = 0;
  int held = 0;  // of 6 bits each
  int padding = 0;
  for (const char c : text) {
    const std::int8_t value = kValues[static_cast<unsigned char>(c)];
    if (value == kSpace) continue;
    if (c == '=') {
      ++padding;
      continue;
    }
    if (value == kNone) refuse("the character '" + printable(std::string(1, c)) + "'");
    if (padding > 0) refuse("text behind the padding");
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    if (++held < 4) continue;
    for (const int shift : {16, 8, 0}) bytes += static_cast<char>(bits >> shift & 0xFF);
    bits = 0;
    held = 0;
  }
  if (held == 1 || padding > 2 || (padding > 0 && held + padding != 4)) refuse("it is cut off");
  if ((held == 2 && (bits & 0xF) != 0) || (held == 3 && (bits & 3) != 0)) refuse("bits left over at the end");
  if (held >= 2) bytes += static_cast<char>(bits >> (held == 2 ? 4 : 10) & 0xFF);
  if (held == 3) bytes += static_cast<char>(bits >> 2 & 0xFF);
  return bytes;
}

}  // namespace mmtune
