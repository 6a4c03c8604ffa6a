#include "core/error.h"

#include <gtest/gtest.h>

#include <string>

namespace mmtune {
namespace {

TEST(Error, OneLineOfItsParts) {
  EXPECT_STREQ(Error({.what = "w"}).what(), "w");
  EXPECT_STREQ(Error({.what = "w", .where = "f", .expected = "x", .got = "y", .hint = "h"}).what(), "f: w: expected x, got y (h)");
  EXPECT_STREQ(Error({.what = "w", .got = "y"}).what(), "w: got y");
}

TEST(Error, AUsageErrorIsAnError) {
  EXPECT_THROW(throw UsageError({.what = "w"}), Error);
}

TEST(Printable, KeepsTextAndEscapesControls) {
  EXPECT_EQ(printable("plain é 模 😀"), "plain é 模 😀");
  EXPECT_EQ(printable("a\nb\x1b[2J\x7f"), "a\\x0ab\\x1b[2J\\x7f");
  EXPECT_EQ(printable(std::string("\0", 1)), "\\x00");
}

TEST(Printable, EscapesWhatIsNotUtf8) {
  EXPECT_EQ(printable("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(printable("\xc0\x80"), "\\xc0\\x80");
  EXPECT_EQ(printable("\xed\xa0\x80"), "\\xed\\xa0\\x80");
  EXPECT_EQ(printable("\xf5\x80\x80\x80"), "\\xf5\\x80\\x80\\x80");
  EXPECT_EQ(printable("\x80z"), "\\x80z");
  EXPECT_EQ(printable("\xe2\x80\xa8"), "\\xe2\\x80\\xa8");  // a line separator
}

TEST(Printable, CutsBetweenCharacters) {
  EXPECT_EQ(printable("abcdef", 3), "abc…");
  EXPECT_EQ(printable("aé", 2), "a…");
  EXPECT_EQ(printable("aé", 3), "aé");
}

}  // namespace
}  // namespace mmtune
