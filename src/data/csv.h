#pragma once
// Comma- and tab-separated values, RFC 4180.

#include <cstddef>
#include <istream>
#include <string>
#include <vector>

namespace mmtune::data {

/// Reads records one by one. Lines end with LF or CRLF; a field that begins with a double quote goes on to the closing one and may hold
/// separators, line ends and doubled quotes; a quote further into a field is a character like others. A byte order mark at the start and
/// empty lines are passed over. Throws Error with file and line: a quote that is never closed, text behind a closing quote, a carriage
/// return alone, a zero byte, invalid UTF-8, a record of more than 16 MiB or 65,536 fields.
class CsvReader {
 public:
  /// `name` is for messages. Without `quotes`, quotes are characters like others everywhere.
  CsvReader(std::istream& in, std::string name, char separator, bool quotes = true);

  /// False at the end of the input.
  bool next(std::vector<std::string>& fields);
  /// The line on which the last record began, counted from 1.
  std::size_t line() const { return record_line_; }

 private:
  [[noreturn]] void fail(std::size_t line, const std::string& what, const std::string& hint = {}) const;
  bool read_field(std::vector<std::string>& fields);
  void read_quoted(std::string& field);
  int take();
  int peek();

  std::istream& in_;
  std::string name_;
  std::string ahead_;  ///< read too early at the start
  char separator_;
  bool quotes_;
  std::size_t line_ = 1;
  std::size_t record_line_ = 1;
  std::size_t record_bytes_ = 0;
};

/// Whether `text` is well-formed UTF-8 (no overlong forms, surrogates or code points above U+10FFFF).
bool is_utf8(std::string_view text);

}  // namespace mmtune::data
