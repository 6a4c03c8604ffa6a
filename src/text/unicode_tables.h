#pragma once
// What the `tokenizers` package holds every code point to be (unicode_tables.cpp, made by tools/make_unicode_tables.py).

#include <array>
#include <cstdint>
#include <span>

namespace mmtune::text::tables {

/// How many Property bits there are.
inline constexpr int property_bits = 11;

/// Runs of code points with equal properties, ascending: first code point << property_bits | Property bits.
extern const std::span<const std::uint32_t> property_rows;

/// For each page of 256 code points below 0x10000, and for the end: the row that its first code point falls into.
extern const std::array<std::uint16_t, 257> property_pages;

/// first, first + step, …, last have the lower case code point + delta.
struct LowerRun {
  std::uint32_t first, last, step;
  std::int32_t delta;
};
extern const std::span<const LowerRun> lower_runs;

}  // namespace mmtune::text::tables
