#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>

#include "core/error.h"
#include "text/unicode_tables.h"

namespace mmtune::text {

namespace {

constexpr char32_t kReplacement = 0xFFFD;

std::array<char32_t, 2> lower_beyond_ascii(char32_t code) {
  if (code == 0x130) return {U'i', 0x307};
  const auto runs = tables::lower_runs;
  const auto after = std::upper_bound(runs.begin(), runs.end(), static_cast<std::uint32_t>(code),
                                      [](std::uint32_t value, const tables::LowerRun& run) { return value < run.first; });
  if (after == runs.begin()) return {code, 0};
  const tables::LowerRun& run = *(after - 1);
  if (code <= run.last && (code - run.first) % run.step == 0) {
    return {static_cast<char32_t>(static_cast<std::int64_t>(code) + run.delta), 0};
  }
  return {code, 0};
}

bool is_continuation(unsigned char byte) {
  return (byte & 0xC0) == 0x80;
}

}  // namespace

std::uint32_t properties(char32_t code) {
  const auto rows = tables::property_rows;
  std::size_t low = 0;
  std::size_t high = 0;
  if (code < 0x10000) {
    low = tables::property_pages[code >> 8];
    high = tables::property_pages[(code >> 8) + 1] + std::size_t{1};
  } else {
    low = tables::property_pages[256];
    high = rows.size();
  }
  const auto after = std::upper_bound(rows.begin() + static_cast<std::ptrdiff_t>(low), rows.begin() + static_cast<std::ptrdiff_t>(high),
                                      static_cast<std::uint32_t>(code),
                                      [](std::uint32_t value, std::uint32_t row) { return value < row >> tables::property_bits; });
  return *(after - 1) & ((1u << tables::property_bits) - 1);
}

std::array<char32_t, 2> to_lower(char32_t code) {
  if (code < 0x80) return {code >= U'A' && code <= U'Z' ? code + 32 : code, 0};
  return lower_beyond_ascii(code);
}

Decomposition decompose(char32_t code, bool compatibility) {
  Decomposition result;
  const std::uint32_t wanted = compatibility ? kCanonical | kCompatibility : kCanonical;
  if (code < 0x80 || (properties(code) & wanted) == 0) {
    result.codes[0] = code;
    result.size = 1;
    return result;
  }
  std::array<utf8proc_int32_t, 32> buffer{};
  int last_boundclass = 0;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | (compatibility ? UTF8PROC_COMPAT : 0));
  const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code), buffer.data(),
                                             static_cast<utf8proc_ssize_t>(buffer.size()), options, &last_boundclass);
  MMTUNE_ASSERT(count > 0 && count <= static_cast<utf8proc_ssize_t>(result.codes.size()));
  for (int i = 0; i < count; ++i) result.codes[static_cast<std::size_t>(i)] = static_cast<char32_t>(buffer[static_cast<std::size_t>(i)]);
  result.size = static_cast<int>(count);
  return result;
}

int combining_class(char32_t code) {
  if (code < 0x300 || (properties(code) & kCanonical) == 0) return 0;
  return utf8proc_get_property(static_cast<utf8proc_int32_t>(code))->combining_class;
}

std::optional<char32_t> compose(char32_t starter, char32_t next) {
  if (next < 0x300) return std::nullopt;
  std::array<utf8proc_int32_t, 2> pair = {static_cast<utf8proc_int32_t>(starter), static_cast<utf8proc_int32_t>(next)};
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE);
  if (utf8proc_normalize_utf32(pair.data(), 2, options) != 1) return std::nullopt;
  const auto composite = static_cast<char32_t>(pair[0]);
  // A composite that the reference package does not know yet stays apart.
  if ((properties(composite) & kCanonical) == 0) return std::nullopt;
  return composite;
}

char32_t next_code_point(std::string_view utf8, std::size_t& position) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(utf8[i]); };
  const unsigned char lead = byte(position++);
  if (lead < 0x80) return lead;
  // The allowed range of the second byte rules out overlong forms, surrogates and what lies beyond U+10FFFF.
  int following = 0;
  char32_t code = 0;
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    following = 1;
    code = lead & 0x1Fu;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    following = 2;
    code = lead & 0x0Fu;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    following = 3;
    code = lead & 0x07u;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return kReplacement;
  }
  for (int i = 0; i < following; ++i) {
    if (position >= utf8.size()) return kReplacement;
    const unsigned char next = byte(position);
    if (i == 0 ? (next < low || next > high) : !is_continuation(next)) return kReplacement;
    code = code << 6 | (next & 0x3Fu);
    ++position;
  }
  return code;
}

void append_utf8(std::string& out, char32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | code >> 6);
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | code >> 12);
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | code >> 18);
    out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

std::u32string to_utf32(std::string_view utf8) {
  std::u32string out;
  out.reserve(utf8.size());
  for (std::size_t i = 0; i < utf8.size();) out += next_code_point(utf8, i);
  return out;
}

}  // namespace mmtune::text
