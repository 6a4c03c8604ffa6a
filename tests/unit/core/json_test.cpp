#include "core/json.h"

#include <string>

#include "support/support.h"

namespace mmtune {
namespace {

TEST(Json, ParsesEveryKindOfValue) {
  const Json value = parse_json(R"({"a": [1, -2, 2.5, true, false, null, "x"], "b": {"c": {}}, "d": []})", "f");
  EXPECT_EQ(value["a"][0], 1);
  EXPECT_EQ(value["a"][1], -2);
  EXPECT_EQ(value["a"][2], 2.5);
  EXPECT_EQ(value["a"][3], true);
  EXPECT_TRUE(value["a"][5].is_null());
  EXPECT_EQ(value["a"][6], "x");
  EXPECT_TRUE(value["b"]["c"].is_object());
  EXPECT_TRUE(value["d"].is_array());
}

TEST(Json, AgreesWithThePlainParserOnValidInput) {
  const std::string text = R"( [{"k": [[], {}, [[{"z": "\u00e9\ud83d\ude00"}]]], "l": 1e3}, 18446744073709551615, -9223372036854775808] )";
  EXPECT_EQ(parse_json(text, "f"), Json::parse(text));
}

TEST(Json, ScalarsAreDocumentsToo) {
  EXPECT_EQ(parse_json("3", "f"), 3);
  EXPECT_EQ(parse_json(" \"x\"\n", "f"), "x");
}

TEST(Json, RefusesDuplicateKeysAndNamesThem) {
  EXPECT_ERROR(parse_json(R"({"a": 1, "b": {"size": 1, "size": 2}})", "config.json"), "config.json: the key 'size' is there twice");
}

TEST(Json, TheSameKeyInTwoObjectsIsFine) {
  EXPECT_EQ(parse_json(R"([{"a": 1}, {"a": 2}, {"b": {"a": 1}, "a": 3}])", "f").size(), 3U);
}

TEST(Json, RefusesDuplicatesWrittenWithEscapes) {
  EXPECT_ERROR(parse_json(R"({"a": 1, "\u0061": 2})", "f"), "'a' is there twice");
}

TEST(Json, DepthIsBounded) {
  EXPECT_NO_THROW(parse_json("[[[1]]]", "f", 3));
  EXPECT_ERROR(parse_json("[[[[1]]]]", "f", 3), "nested too deep");
  EXPECT_ERROR(parse_json(std::string(10'000'000, '['), "f"), "nested too deep");  // NOLINT(bugprone-string-constructor): long on purpose
}

TEST(Json, RefusesInvalidUtf8) {
  EXPECT_ERROR(parse_json("\"\xff\"", "f"), "UTF-8");
  EXPECT_ERROR(parse_json("\"\xc0\x80\"", "f"), "UTF-8");          // overlong NUL
  EXPECT_ERROR(parse_json("\"\xed\xa0\x80\"", "f"), "UTF-8");      // a surrogate
  EXPECT_ERROR(parse_json("\"\xf4\x90\x80\x80\"", "f"), "UTF-8");  // above U+10FFFF
  EXPECT_ERROR(parse_json("\"\xe2\x82\"", "f"), "UTF-8");          // cut short
}

TEST(Json, RefusesLoneSurrogateEscapes) {
  EXPECT_ERROR(parse_json(R"("\ud800")", "f"), "surrogate");
}

TEST(Json, RefusesNulBytesBecauseTheParserWouldStopThere) {
  EXPECT_ERROR(parse_json(std::string("{}\0garbage", 10), "f"), "NUL");
  EXPECT_ERROR(parse_json(std::string("\0", 1), "f"), "NUL");
}

TEST(Json, RefusesAByteOrderMark) {
  EXPECT_ERROR(parse_json("\xef\xbb\xbf{}", "f"), "byte order mark");
}

TEST(Json, RefusesWhatIsNotJson) {
  for (const char* text :
       {"", " ", "{", "[1,]", "{\"a\":1,}", "{'a':1}", "nul", "[1] x", "{\"a\" 1}", "\"a", "01", "1.", "// c\n1", "NaN", "1e999"}) {
    EXPECT_ERROR(parse_json(text, "f"), "f: invalid JSON");
  }
}

TEST(Json, MessagesHaveNoControlCharacters) {
  const std::string message = test::error_of([] { parse_json("[\"\x01\x1b[2J\n\"]", "f"); });
  for (const char c : message) EXPECT_GE(static_cast<unsigned char>(c), 0x20);
}

TEST(Json, IntegersThatDoNotFitAreNotIntegers) {
  EXPECT_TRUE(parse_json("18446744073709551615", "f").is_number_unsigned());
  EXPECT_FALSE(parse_json("18446744073709551616", "f").is_number_integer());
}

TEST(Json, FilesAreNamedInErrors) {
  const test::TempFolder folder;
  EXPECT_EQ(read_json_file(folder.write("good.json", "{\"a\": 1}"))["a"], 1);
  EXPECT_ERROR(read_json_file(folder.write("bad.json", "{")), "bad.json: invalid JSON");
  EXPECT_ERROR(read_json_file(folder / "none.json"), "none.json: cannot open: No such file");
  EXPECT_ERROR(read_json_file(folder.write("large.json", "[1,2,3,4]"), 4), "large.json: file too large");
}

}  // namespace
}  // namespace mmtune
