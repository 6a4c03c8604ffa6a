#include "text/unicode.h"

#include <gtest/gtest.h>

namespace mmtune::text {
namespace {

std::u32string decoded(std::string_view bytes) {
  return to_utf32(bytes);
}

TEST(Unicode, DecodesWhatIsWellFormed) {
  EXPECT_EQ(decoded("a\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80"), U"aé中😀");
  std::string back;
  for (const char32_t code : U"aé中😀") {
    if (code != 0) append_utf8(back, code);
  }
  EXPECT_EQ(back, "aé中😀");
}

TEST(Unicode, ReplacesEachMaximalSubpartOnce) {
  EXPECT_EQ(decoded("\xE4\xB8"), U"\xFFFD");                            // truncated: one
  EXPECT_EQ(decoded("\xF0\x9F\x98x"), U"\xFFFDx");                      // truncated in front of a letter: one
  EXPECT_EQ(decoded("\xC0\xAF"), U"\xFFFD\xFFFD");                      // overlong: one a byte
  EXPECT_EQ(decoded("\xED\xA0\x80"), U"\xFFFD\xFFFD\xFFFD");            // a surrogate: one a byte
  EXPECT_EQ(decoded("\xF4\x90\x80\x80"), U"\xFFFD\xFFFD\xFFFD\xFFFD");  // beyond U+10FFFF: one a byte
  EXPECT_EQ(decoded("\xE2\x82\xE2\x82\xAC"), U"\xFFFD€");
}

TEST(Unicode, PropertiesAreThoseOfTheReferencePackage) {
  EXPECT_EQ(properties(U'a'), kWord | kLetter);
  EXPECT_EQ(properties(U' '), kWhitespace);
  EXPECT_EQ(properties(U'$'), kPunctuation);  // ASCII symbols count as punctuation
  EXPECT_EQ(properties(U'\u00A3'), 0u);       // others do not
  EXPECT_TRUE(properties(0xFFFD) & kControl);
  EXPECT_TRUE(properties(0x301) & kNonspacing);
  EXPECT_TRUE(properties(0x4E2D) & kChinese);
  EXPECT_FALSE(properties(0x2B900) & kChinese);     // a slip of the package that ids depend on
  EXPECT_FALSE(properties(0x2E5D) & kPunctuation);  // younger than the package's table of punctuation
  EXPECT_EQ(properties(0x10FFFF) & kWord, 0u);
}

TEST(Unicode, LowersOneCodePointAtATime) {
  EXPECT_EQ(to_lower(U'A')[0], U'a');
  EXPECT_EQ(to_lower(0x3A3)[0], char32_t{0x3C3});  // no final sigma
  EXPECT_EQ(to_lower(0x130), (std::array<char32_t, 2>{U'i', 0x307}));
  EXPECT_EQ(to_lower(0x10400)[0], char32_t{0x10428});
  EXPECT_EQ(to_lower(0x101)[0], char32_t{0x101});
  EXPECT_EQ(to_lower(0x100)[0], char32_t{0x101});
}

TEST(Unicode, DecomposesAndComposes) {
  const auto parts = decompose(0x1E69, false);  // s with dot below and dot above
  ASSERT_EQ(parts.size, 3);
  EXPECT_EQ(parts.codes[0], U's');
  EXPECT_EQ(decompose(0xFB01, false).size, 1);
  EXPECT_EQ(decompose(0xFB01, true).size, 2);
  EXPECT_EQ(decompose(0xFDFA, true).size, 18);
  EXPECT_EQ(compose(U'e', 0x301), char32_t{0xE9});
  EXPECT_EQ(compose(0x1100, 0x1161), char32_t{0xAC00});
  EXPECT_EQ(compose(U'a', U'b'), std::nullopt);
  EXPECT_EQ(combining_class(0x334), 1);
  EXPECT_EQ(combining_class(U'a'), 0);
}

}  // namespace
}  // namespace mmtune::text
