#include "data/csv.h"

#include <cstdint>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace mmtune::data {

namespace {
constexpr int end_of_input = std::char_traits<char>::eof();
constexpr std::size_t max_record = std::size_t{16} << 20;
constexpr std::size_t max_fields = std::size_t{1} << 16;
}  // namespace

CsvReader::CsvReader(std::istream& in, std::string name, char separator, bool quotes)
    : in_(in), name_(std::move(name)), separator_(separator), quotes_(quotes) {
  // What looked like a byte order mark and was none ("！" begins with the same byte) is kept for the first field.
  for (const int byte : {0xef, 0xbb, 0xbf}) {
    if (in_.rdbuf()->sgetc() != byte) return;
    ahead_ += static_cast<char>(in_.rdbuf()->sbumpc());
  }
  ahead_.clear();
}

void CsvReader::fail(std::size_t line, const std::string& what, const std::string& hint) const {
  throw Error({.what = what, .where = name_ + ":" + std::to_string(line), .hint = hint});
}

int CsvReader::peek() {
  return in_.rdbuf()->sgetc();
}

int CsvReader::take() {
  const int c = ahead_.empty() ? in_.rdbuf()->sbumpc() : static_cast<unsigned char>(ahead_.front());
  if (!ahead_.empty()) ahead_.erase(0, 1);
  if (++record_bytes_ > max_record) fail(record_line_, "the record is longer than 16 MiB", quotes_ ? "is a quote never closed?" : "");
  if (c == 0) fail(line_, "has a zero byte in it", "is it UTF-16? UTF-8 is needed");
  if (c == '\n') ++line_;
  return c;
}

bool CsvReader::next(std::vector<std::string>& fields) {
  for (;;) {
    fields.clear();
    record_bytes_ = 0;
    record_line_ = line_;
    if (peek() == end_of_input) return false;
    while (read_field(fields)) {
      if (fields.size() > max_fields) fail(record_line_, "the record has more than 65,536 fields");
    }
    if (fields.size() > 1 || !fields[0].empty()) return true;
  }
}

/// Appends one field; false when it was the record's last.
bool CsvReader::read_field(std::vector<std::string>& fields) {
  std::string& field = fields.emplace_back();
  const std::size_t begin = line_;
  bool closed = false;
  if (quotes_ && peek() == '"') {
    read_quoted(field);
    closed = true;
  }
  for (;;) {
    const std::size_t here = line_;
    const int c = take();
    const bool ends = c == end_of_input || c == '\n' || c == separator_;
    if (c == '\r') {
      if (peek() == '\n' || peek() == end_of_input) continue;
      fail(here, "has a carriage return alone in it", "lines must end with LF or CRLF");
    }
    if (ends) {
      if (!is_utf8(field)) fail(begin, "field " + std::to_string(fields.size()) + " is not valid UTF-8");
      return c == separator_;
    }
    if (closed)
      fail(here, "field " + std::to_string(fields.size()) + " has text behind its closing quote", "a quote inside a field is doubled");
    field += static_cast<char>(c);
  }
}

void CsvReader::read_quoted(std::string& field) {
  const std::size_t opened = line_;
  take();
  for (;;) {
    const int c = take();
    if (c == end_of_input) fail(opened, "the quote that opens here is never closed");
    if (c == '"') {
      if (peek() != '"') return;
      take();
    }
    field += static_cast<char>(c);
  }
}

bool is_utf8(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const std::size_t length = lead < 0x80 ? 1 : lead >> 5 == 0x6 ? 2 : lead >> 4 == 0xe ? 3 : lead >> 3 == 0x1e ? 4 : 0;
    if (length == 0 || length > text.size() - i) return false;
    std::uint32_t code = length == 1 ? lead : lead & (0x7fU >> length);
    for (std::size_t k = 1; k < length; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      if (next >> 6 != 0x2) return false;
      code = code << 6 | (next & 0x3fU);
    }
    constexpr std::uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (code < least[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return false;
    i += length;
  }
  return true;
}

}  // namespace mmtune::data
