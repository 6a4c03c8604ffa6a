#include "report/table.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "core/error.h"

namespace mmtune::report {

namespace {

std::string format(const char* pattern, double value) {
  std::array<char, 64> buffer{};
  std::snprintf(buffer.data(), buffer.size(), pattern, value);
  return buffer.data();
}

std::string three_digits(double value) {
  const double magnitude = std::abs(value);
  return format(magnitude < 9.995 ? "%.2f" : magnitude < 99.95 ? "%.1f" : "%.0f", value);
}

/// Calls `visit(bytes, width)` for every character (every byte of broken UTF-8).
template <class Visit>
void each_character(std::string_view text, const Visit& visit) {
  std::size_t at = 0;
  while (at < text.size()) {
    utf8proc_int32_t code = 0;
    const auto length = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                                         static_cast<utf8proc_ssize_t>(text.size() - at), &code);
    if (length <= 0) {
      visit(text.substr(at, 1), std::size_t{1});
      at += 1;
      continue;
    }
    visit(text.substr(at, static_cast<std::size_t>(length)), static_cast<std::size_t>(std::max(0, utf8proc_charwidth(code))));
    at += static_cast<std::size_t>(length);
  }
}

std::string cut(const std::string& text, std::size_t max_width) {
  std::string safe = printable(text, text.size());
  if (display_width(safe) <= max_width) return safe;
  std::string out;
  std::size_t width = 0;
  bool full = false;
  each_character(safe, [&](std::string_view bytes, std::size_t w) {
    full = full || width + w + 1 > max_width;
    if (full) return;
    out += bytes;
    width += w;
  });
  return out + "…";
}

std::string padded(const std::string& text, std::size_t width, Align align) {
  const std::string space(width - std::min(width, display_width(text)), ' ');
  return align == Align::left ? text + space : space + text;
}

void trim_end(std::string& line) {
  while (!line.empty() && line.back() == ' ') line.pop_back();
}

std::string key_of(const Column& column) {
  if (!column.key.empty()) return column.key;
  std::string key;
  for (const char c : column.title) key += c == ' ' ? '_' : (c >= 'A' && c <= 'Z') ? static_cast<char>(c - 'A' + 'a') : c;
  return key;
}

}  // namespace

std::string human_count(double count) {
  const double magnitude = std::abs(count);
  if (magnitude < 1000) return count == std::floor(count) ? format("%.0f", count) : three_digits(count);
  // The limits are where rounding to three digits would carry into the next prefix.
  if (magnitude < 999.5e3) return three_digits(count / 1e3) + " k";
  if (magnitude < 999.5e6) return three_digits(count / 1e6) + " M";
  if (magnitude < 999.5e9) return three_digits(count / 1e9) + " G";
  return three_digits(count / 1e12) + " T";
}

std::string human_macs(double macs) {
  if (macs < 1e5) return format("%.0f MAC", macs);
  if (macs < 1e8) return three_digits(macs / 1e6) + " MMAC";
  if (macs < 1e14) return three_digits(macs / 1e9) + " GMAC";
  return three_digits(macs / 1e12) + " TMAC";
}

std::string human_bytes(double bytes) {
  constexpr std::array<const char*, 4> units = {" KiB", " MiB", " GiB", " TiB"};
  if (bytes < 1024) return format("%.0f B", bytes);
  std::size_t unit = 0;
  bytes /= 1024;
  while (bytes >= 1023.5 && unit + 1 < units.size()) {
    bytes /= 1024;
    ++unit;
  }
  return format(bytes < 99.95 ? "%.1f" : "%.0f", bytes) + units[unit];
}

std::string human_duration(double seconds) {
  if (std::isnan(seconds) || seconds < 0) return "—";
  if (seconds < 0.9995) return format(seconds < 0.00995 ? "%.1f ms" : "%.0f ms", seconds * 1e3);
  if (seconds < 59.95) return format("%.1f s", seconds);
  if (seconds >= 1e15) return "—";
  const auto whole = static_cast<long long>(std::llround(seconds));
  std::array<char, 64> buffer{};
  if (whole < 3600) {
    std::snprintf(buffer.data(), buffer.size(), "%lld m %02lld s", whole / 60, whole % 60);
  } else if (whole < 86400) {
    std::snprintf(buffer.data(), buffer.size(), "%lld h %02lld m", whole / 3600, whole / 60 % 60);
  } else {
    std::snprintf(buffer.data(), buffer.size(), "%lld d %02lld h", whole / 86400, whole / 3600 % 24);
  }
  return buffer.data();
}

std::string fixed(double value, int decimals) {
  if (std::isnan(value)) return "—";
  std::array<char, 400> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "%.*f", decimals, value);
  return buffer.data();
}

std::size_t display_width(std::string_view text) {
  std::size_t width = 0;
  each_character(text, [&](std::string_view, std::size_t w) { width += w; });
  return width;
}

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

void Table::add(std::vector<Cell> cells) {
  MMTUNE_ASSERT(cells.size() == columns_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::text(std::size_t max_width) const {
  std::vector<std::size_t> widths;
  for (const Column& column : columns_) widths.push_back(display_width(column.title));
  std::vector<std::vector<std::string>> shown;
  for (const auto& row : rows_) {
    shown.emplace_back();
    for (std::size_t c = 0; c < row.size(); ++c) {
      shown.back().push_back(cut(row[c].text, max_width));
      widths[c] = std::max(widths[c], display_width(shown.back().back()));
    }
  }
  std::string out, rule;
  const auto line = [&](const auto& text_of) {
    std::string result;
    for (std::size_t c = 0; c < columns_.size(); ++c) result += (c == 0 ? "" : "  ") + padded(text_of(c), widths[c], columns_[c].align);
    trim_end(result);
    out += result + "\n";
  };
  line([&](std::size_t c) { return columns_[c].title; });
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    rule += c == 0 ? "" : "  ";
    for (std::size_t i = 0; i < widths[c]; ++i) rule += "─";
  }
  out += rule + "\n";
  for (const auto& row : shown) line([&](std::size_t c) { return row[c]; });
  return out;
}

Json Table::json() const {
  Json list = Json::array();
  for (const auto& row : rows_) {
    Json object = Json::object();
    for (std::size_t c = 0; c < row.size(); ++c) object[key_of(columns_[c])] = row[c].value;
    list.push_back(std::move(object));
  }
  return list;
}

}  // namespace mmtune::report
