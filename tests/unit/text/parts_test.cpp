// Vocabulary, truncation, added tokens and folders on their own.
#include <gtest/gtest.h>

#include "support/support.h"
#include "text/added_tokens.h"
#include "text/tokenizer.h"
#include "text/truncation.h"
#include "text/vocabulary.h"

namespace mmtune::text {
namespace {

using test::error_of;
using test::TempFolder;

TEST(Vocabulary, FindsTokensAndIds) {
  std::vector<Vocabulary::Entry> entries;
  for (int i = 0; i < 5000; ++i) entries.push_back({"token" + std::to_string(i), 3 * i});
  const Vocabulary vocabulary(entries, "v");
  EXPECT_EQ(vocabulary.size(), 5000u);
  for (int i = 0; i < 5000; ++i) {
    EXPECT_EQ(vocabulary.find("token" + std::to_string(i)), 3 * i);
    EXPECT_EQ(vocabulary.token_of(3 * i), "token" + std::to_string(i));
    EXPECT_EQ(vocabulary.token_of(3 * i + 1), std::nullopt);
  }
  EXPECT_EQ(vocabulary.find("token5000"), std::nullopt);
  EXPECT_EQ(vocabulary.find(""), std::nullopt);
  EXPECT_EQ(vocabulary.find(hash_bytes("token12"), "tok", "en12"), 36);
  EXPECT_EQ(Vocabulary().find("a"), std::nullopt);
}

TEST(Vocabulary, RefusesATokenTwice) {
  EXPECT_NE(error_of([] { Vocabulary({{"a", 0}, {"a", 1}}, "v"); }).find("'a' stands there twice"), std::string::npos);
}

std::pair<std::int64_t, std::int64_t> kept(const Truncation& truncation, std::int64_t added, std::int64_t first,
                                           std::optional<std::int64_t> second) {
  const Kept result = truncate(truncation, added, first, second);
  return {result.first.end - result.first.begin, result.second.end - result.second.begin};
}

TEST(Truncation, LongestFirst) {
  using Sizes = std::pair<std::int64_t, std::int64_t>;
  const Truncation seven{.max_length = 7};
  EXPECT_EQ(kept(seven, 0, 8, std::nullopt), Sizes(7, 0));
  EXPECT_EQ(kept(seven, 0, 2, 8), Sizes(2, 5));
  EXPECT_EQ(kept(seven, 0, 8, 2), Sizes(5, 2));
  EXPECT_EQ(kept(seven, 0, 4, 4), Sizes(3, 4));
  EXPECT_EQ(kept(seven, 0, 8, 4), Sizes(4, 3));
  EXPECT_EQ(kept(seven, 7, 8, 4), Sizes(0, 0));
  EXPECT_EQ(kept(seven, 8, 8, 4), Sizes(8, 4));
  EXPECT_EQ(kept({.max_length = 0}, 0, 8, 4), Sizes(0, 0));
}

TEST(Truncation, OneSide) {
  const Kept left = truncate({.max_length = 5, .side = TruncationSide::left}, 2, 10, std::nullopt);
  EXPECT_EQ(left.first.begin, 7u);
  EXPECT_EQ(left.first.end, 10u);
  const Truncation second{.max_length = 6, .strategy = TruncationStrategy::only_second};
  EXPECT_EQ(truncate(second, 0, 4, 9).second.end, 2u);
  EXPECT_NE(error_of([&] { truncate(second, 0, 9, 2); }), "");
  EXPECT_NE(error_of([&] { truncate(second, 0, 9, std::nullopt); }), "");
  EXPECT_NE(error_of([] { truncate({.max_length = 3, .stride = 3}, 0, 9, std::nullopt); }).find("stride"), std::string::npos);
}

TEST(TokenFinder, TakesTheLeftmostAndOfThoseTheLongest) {
  const AddedToken b{.content = "b"};
  const AddedToken ab{.content = "ab"};
  const AddedToken abc{.content = "abcd"};
  const TokenFinder finder({U"b", U"ab", U"abcd"}, {&b, &ab, &abc});
  std::vector<Char> chars;
  decode("xabcabcdb", chars);
  std::vector<Segment> found;
  finder.split(chars, found);
  ASSERT_EQ(found.size(), 5u);
  EXPECT_EQ(found[0].token, nullptr);
  EXPECT_EQ(found[1].token, &ab);
  EXPECT_EQ(found[2].token, nullptr);
  EXPECT_EQ(found[3].token, &abc);
  EXPECT_EQ(found[4].token, &b);
}

TEST(TokenizerFolder, ReadsVocabTxt) {
  const TempFolder folder;
  folder.write("vocab.txt", "[PAD]\n[UNK]\r\n[CLS]\n[SEP]\nA\na\n##b");
  folder.write("tokenizer_config.json", R"({"do_lower_case": false, "model_max_length": 1e30, "pad_token": {"content": "[PAD]"}})");
  const auto tokenizer = Tokenizer::open(folder.path());
  EXPECT_EQ(tokenizer->encode("Ab ab").ids, (std::vector<std::int64_t>{2, 4, 6, 5, 6, 3}));
  EXPECT_EQ(tokenizer->model_max_length(), std::nullopt);
  EXPECT_EQ(tokenizer->vocabulary_size(), 7);
  folder.write("tokenizer_config.json", R"({"model_max_length": 512})");
  EXPECT_EQ(Tokenizer::open(folder.path())->encode("Ab").ids, (std::vector<std::int64_t>{2, 5, 6, 3}));
  EXPECT_EQ(Tokenizer::open(folder.path())->model_max_length(), 512);
}

TEST(TokenizerFolder, NamesWhatIsWrong) {
  const TempFolder folder;
  const auto error = [&] { return error_of([&] { Tokenizer::open(folder.path()); }); };
  EXPECT_NE(error().find("tokenizer.json, tokenizer.model, vocab.txt"), std::string::npos);
  folder.write("vocab.txt", "[UNK]\n[CLS]\n");
  EXPECT_NE(error().find("sep_token '[SEP]'"), std::string::npos);
  folder.write("vocab.txt", "[UNK]\n[CLS]\n[SEP]\n\xFF\n");
  EXPECT_NE(error().find("line 4 is not UTF-8"), std::string::npos);
  folder.write("vocab.txt", "[UNK]\n[CLS]\n[SEP]\n");
  folder.write("tokenizer_config.json", R"({"tokenizer_class": "XLNetTokenizer"})");
  EXPECT_NE(error().find("'XLNetTokenizer'"), std::string::npos);
  folder.write("tokenizer_config.json", R"({"model_max_length": -1})");
  EXPECT_NE(error().find("model_max_length"), std::string::npos);
  folder.write("tokenizer_config.json", R"({"do_lower_case": 1})");
  EXPECT_NE(error().find("do_lower_case"), std::string::npos);
  folder.write("tokenizer_config.json", "{}");
  folder.write("added_tokens.json", "{}");
  EXPECT_NE(error().find("added_tokens.json"), std::string::npos);
}

}  // namespace
}  // namespace mmtune::text
