#pragma once
// Plain aligned tables for a terminal, their JSON twin, and numbers as people read them.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace mmtune::report {

/// Three significant digits and a decimal prefix: 1.92 M, 85.8 M, 730, 12.3 k.
std::string human_count(double count);
/// Multiply-accumulates: 0.91 GMAC, 17.6 GMAC, 3.2 MMAC.
std::string human_macs(double macs);
/// Binary prefixes: 812 B, 3.4 GiB.
std::string human_bytes(double bytes);
/// 35 ms, 4.2 s, 12 m 03 s, 3 h 04 m, 2 d 05 h.
std::string human_duration(double seconds);
/// `value` with `decimals` digits behind the point; "—" for NaN.
std::string fixed(double value, int decimals = 4);

/// Columns that `text` takes on a terminal: wide East Asian characters and emoji two, combining marks none, broken UTF-8 one a byte.
std::size_t display_width(std::string_view text);

/// What is shown, and what the JSON twin has in its place.
struct Cell {
  // NOLINTBEGIN(google-explicit-constructor): rows are written as lists of plain texts and numbers
  Cell(std::string shown) : text(std::move(shown)), value(text) {}
  Cell(const char* shown) : Cell(std::string(shown)) {}
  Cell(std::int64_t number) : text(std::to_string(number)), value(number) {}
  // NOLINTEND(google-explicit-constructor)
  Cell(std::string shown, Json twin) : text(std::move(shown)), value(std::move(twin)) {}
  std::string text;
  Json value;
};

enum class Align { left, right };

struct Column {
  std::string title;
  Align align = Align::left;
  std::string key = {};  ///< in JSON; empty: the title in lower case with underscores
};

class Table {
 public:
  explicit Table(std::vector<Column> columns);
  /// As many cells as columns.
  void add(std::vector<Cell> cells);
  bool empty() const { return rows_.empty(); }
  /// Header, a rule and the rows, two spaces between columns, no trailing spaces; every line ends with a newline. Control characters in
  /// cells are escaped, and a cell wider than `max_width` is cut with an ellipsis.
  std::string text(std::size_t max_width = 60) const;
  /// A list of objects.
  Json json() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
};

}  // namespace mmtune::report
