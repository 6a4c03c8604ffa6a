#include "report/table.h"

#include <gtest/gtest.h>

#include <cmath>

namespace mmtune::report {
namespace {

TEST(Human, Counts) {
  EXPECT_EQ(human_count(0), "0");
  EXPECT_EQ(human_count(999), "999");
  EXPECT_EQ(human_count(1000), "1.00 k");
  EXPECT_EQ(human_count(1'920'000), "1.92 M");
  EXPECT_EQ(human_count(85'798'656), "85.8 M");
  EXPECT_EQ(human_count(999'999), "1.00 M");
  EXPECT_EQ(human_count(9'999'999), "10.0 M");
  EXPECT_EQ(human_count(1.75e12), "1.75 T");
}

TEST(Human, MacsBytesAndDurations) {
  EXPECT_EQ(human_macs(0.91e9), "0.91 GMAC");
  EXPECT_EQ(human_macs(17.58e9), "17.6 GMAC");
  EXPECT_EQ(human_macs(3.2e6), "3.20 MMAC");
  EXPECT_EQ(human_bytes(812), "812 B");
  EXPECT_EQ(human_bytes(3.4 * 1024 * 1024 * 1024), "3.4 GiB");
  EXPECT_EQ(human_bytes(1024.0 * 1024 - 1), "1.0 MiB");
  EXPECT_EQ(human_duration(0.0042), "4.2 ms");
  EXPECT_EQ(human_duration(0.035), "35 ms");
  EXPECT_EQ(human_duration(4.24), "4.2 s");
  EXPECT_EQ(human_duration(59.99), "1 m 00 s");
  EXPECT_EQ(human_duration(723), "12 m 03 s");
  EXPECT_EQ(human_duration(3 * 3600 + 4 * 60), "3 h 04 m");
  EXPECT_EQ(human_duration(2 * 86400 + 5 * 3600), "2 d 05 h");
  EXPECT_EQ(human_duration(std::nan("")), "—");
  EXPECT_EQ(human_duration(1e300), "—");
  EXPECT_EQ(fixed(0.81234), "0.8123");
  EXPECT_EQ(fixed(std::nan("")), "—");
  EXPECT_EQ(fixed(1e300, 4).size(), 306U);
}

TEST(Table, AlignsByDisplayWidth) {
  Table table({{"Name"}, {"Count", Align::right}, {"Share of all"}});
  table.add({"漢字", std::int64_t{5}, Cell("50 %", 0.5)});
  table.add({"e\xcc\x81t\xc3\xa9", std::int64_t{1234}, "x"});
  EXPECT_EQ(table.text(),
            "Name  Count  Share of all\n"
            "────  ─────  ────────────\n"
            "漢字      5  50 %\n"
            "e\xcc\x81t\xc3\xa9    1234  x\n");
  EXPECT_EQ(table.json().dump(-1, ' ', true),
            R"([{"count":5,"name":"\u6f22\u5b57","share_of_all":0.5},{"count":1234,"name":"e\u0301t\u00e9","share_of_all":"x"}])");
}

TEST(Table, CutsAndEscapes) {
  Table table({{"A"}});
  table.add({"line\nbreak"});
  table.add({"abcdefghijklmnop"});
  table.add({"\xff\xfe"});
  EXPECT_EQ(table.text(10), "A\n──────────\nline\\x0ab…\nabcdefghi…\n\\xff\\xfe\n");
}

TEST(Table, WidthOfBrokenUtf8IsItsBytes) {
  EXPECT_EQ(display_width("\xff\xffz"), 3U);
  EXPECT_EQ(display_width(""), 0U);
}

}  // namespace
}  // namespace mmtune::report
