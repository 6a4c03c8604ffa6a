#include "data/csv.h"

#include <sstream>

#include "unit/data/data_test_support.h"

namespace mmtune::data::test {
namespace {

using Records = std::vector<std::vector<std::string>>;

Records read(const std::string& text, char separator = ',', bool quotes = true) {
  std::istringstream in(text);
  CsvReader reader(in, "x.csv", separator, quotes);
  Records records;
  std::vector<std::string> fields;
  while (reader.next(fields)) records.push_back(fields);
  return records;
}

std::string refusal(const std::string& text) {
  return message_of([&] { read(text); });
}

TEST(Csv, PlainRecords) {
  EXPECT_EQ(read("a,b\n1,2\n"), (Records{{"a", "b"}, {"1", "2"}}));
  EXPECT_EQ(read("a,b\r\n1,2"), (Records{{"a", "b"}, {"1", "2"}}));
  EXPECT_EQ(read("a,\n,\n\n,b\n"), (Records{{"a", ""}, {"", ""}, {"", "b"}}));
  EXPECT_EQ(read("a\tb,c\n", '\t'), (Records{{"a", "b,c"}}));
  EXPECT_EQ(read(""), Records{});
  EXPECT_EQ(read("\n\r\n\n"), Records{});
  EXPECT_EQ(read("\xef\xbb\xbf"
                 "a,b\n"),
            (Records{{"a", "b"}}));
}

TEST(Csv, OnlyAWholeByteOrderMarkIsPassedOver) {
  EXPECT_EQ(read("！,b\n"), (Records{{"！", "b"}}));
  EXPECT_EQ(read("\xef\xbb\xbf\"a\",b\n"), (Records{{"a", "b"}}));
  EXPECT_EQ(read("\xef\xbb\xbf"), Records{});
}

TEST(Csv, Quotes) {
  EXPECT_EQ(read("\"a,b\",\"say \"\"hi\"\"\",\"two\nlines\"\n"), (Records{{"a,b", "say \"hi\"", "two\nlines"}}));
  EXPECT_EQ(read("\"\",x\n"), (Records{{"", "x"}}));
  EXPECT_EQ(read("5\" disk,b\n"), (Records{{"5\" disk", "b"}}));
  EXPECT_EQ(read("\"a\"\r\n\"b\""), (Records{{"a"}, {"b"}}));
  EXPECT_EQ(read("\"a,b\n", ',', false), (Records{{"\"a", "b"}}));
  EXPECT_EQ(read("\"a\r\nb\",c\n"), (Records{{"a\r\nb", "c"}}));
}

TEST(Csv, LinesAreThoseOfTheFile) {
  std::istringstream in("a\n\n\"two\nlines\"\nlast\n");
  CsvReader reader(in, "x.csv", ',');
  std::vector<std::string> fields;
  std::vector<std::size_t> lines;
  while (reader.next(fields)) lines.push_back(reader.line());
  EXPECT_EQ(lines, (std::vector<std::size_t>{1, 3, 5}));
}

TEST(Csv, Refusals) {
  EXPECT_EQ(refusal("a,b\n1,\"open\n2,3\n"), "x.csv:2: the quote that opens here is never closed");
  expect_contains(refusal("a\n\"x\" y\n"), "x.csv:2: field 1 has text behind its closing quote");
  expect_contains(refusal("a,b\rc,d\r"), "x.csv:1: has a carriage return alone");
  expect_contains(refusal(std::string("a\n1\0,2\n", 7)), "x.csv:2: has a zero byte");
  expect_contains(refusal("a\nb\n1,\xff\n"), "x.csv:3: field 2 is not valid UTF-8");
  expect_contains(refusal("\xef\xbb,a\n"), "not valid UTF-8");
  expect_contains(refusal("\"" + std::string((16 << 20) + 5, 'x')), "x.csv:1: the record is longer than 16 MiB");
  expect_contains(refusal(std::string(70000, ',')), "more than 65,536 fields");
}

TEST(Csv, Utf8) {
  EXPECT_TRUE(is_utf8("aé漢😀"));
  for (const std::string_view bad :
       {"\x80", "\xc3", "\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80"}) {
    EXPECT_FALSE(is_utf8(bad));
  }
}

}  // namespace
}  // namespace mmtune::data::test
