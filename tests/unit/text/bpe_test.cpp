// Byte-pair encoding: merges, spelling in bytes, patterns, folders, and what is refused.
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/support.h"
#include "text/bpe.h"
#include "text/byte_level.h"
#include "text/patterns.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace mmtune::text {
namespace {

using test::error_of;
using test::TempFolder;
using Ids = std::vector<std::int64_t>;

Json byte_level_json() {
  return Json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0], "trim_offsets": true,
                       "add_prefix_space": false},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
              "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
              "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "\u0120": 4, "ab": 5, "\u0120ab": 6, "\u00c3": 7, "\u00a9": 8},
              "merges": ["a b", "\u0120 ab"]}})");
}

std::string error_with(const std::string& pointer, const Json& value) {
  Json json = byte_level_json();
  json[Json::json_pointer(pointer)] = value;
  return error_of([&] { Tokenizer::from_json(json.dump(), "t.json"); });
}

void expect_in(const std::string& message, std::initializer_list<std::string> parts) {
  for (const auto& part : parts) EXPECT_NE(message.find(part), std::string::npos) << "no '" << part << "' in: " << message;
}

TEST(Bpe, MergesAndTrimsOffsets) {
  const auto tokenizer = Tokenizer::from_json(byte_level_json().dump(), "t.json");
  const Encoding encoding = tokenizer->encode("ab ab\xC3\xA9");
  EXPECT_EQ(encoding.ids, (Ids{0, 5, 6, 7, 8, 1}));
  using Offsets = std::vector<std::pair<std::int64_t, std::int64_t>>;
  EXPECT_EQ(encoding.offsets, (Offsets{{0, 0}, {0, 2}, {3, 5}, {5, 6}, {5, 6}, {0, 0}}));
  const Encoding pair = tokenizer->encode_pair("a", "b");
  EXPECT_EQ(pair.ids, (Ids{0, 2, 1, 1, 3, 1}));
  EXPECT_EQ(pair.type_ids, Ids(6, 0));
}

TEST(Bpe, ReadsMergesInBothSpellings) {
  Json json = byte_level_json();
  json["model"]["merges"] = Json::parse(R"([["a", "b"], ["\u0120", "ab"]])");
  EXPECT_EQ(Tokenizer::from_json(json.dump(), "t.json")->encode(" ab").ids, (Ids{0, 6, 1}));
  json["model"]["merges"] = Json::parse(R"(["#version: 0.2", "a b"])");
  EXPECT_EQ(Tokenizer::from_json(json.dump(), "t.json")->encode(" ab").ids, (Ids{0, 4, 5, 1}));
}

TEST(Bpe, TheLowestRankMergesFirstAndOfEqualOnesTheLeftmost) {
  const Vocabulary vocabulary({{"a", 0}, {"b", 1}, {"aa", 2}, {"ab", 3}}, "v");
  const auto ids = [&](const std::vector<MergeNames>& merges, std::string_view text) {
    const auto model = make_bpe(vocabulary, merges, {}, "m");
    std::vector<Char> word;
    decode(text, word);
    ModelBuffers buffers;
    std::vector<Token> tokens;
    model->tokenize(word, buffers, tokens);
    Ids found;
    for (const Token& token : tokens) found.push_back(token.id);
    return found;
  };
  EXPECT_EQ(ids({{"a", "a"}, {"a", "b"}}, "aaab"), (Ids{2, 3}));
  EXPECT_EQ(ids({{"a", "b"}, {"a", "a"}}, "aab"), (Ids{0, 3}));
  EXPECT_EQ(ids({{"a", "a"}, {"a", "b"}}, "aab"), (Ids{2, 1}));
  EXPECT_EQ(ids({}, "xab"), (Ids{0, 1}));  // no unknown token: left out
}

TEST(Bpe, NamesWhatIsWrong) {
  expect_in(error_with("/model/merges/1", "a z"), {"t.json: model.merges", "merge 1 ('a', 'z')", "'z'", "not in the vocabulary"});
  expect_in(error_with("/model/merges/1", "b a"), {"merge 1 ('b', 'a')", "'ba'"});
  expect_in(error_with("/model/merges/1", "a  b"), {"merges[1]", "one space"});
  expect_in(error_with("/model/merges/1", {"a", "b"}), {"merges[1]", "a string like those before it"});
  expect_in(error_with("/model/merges", "a b"), {"model.merges", "a list"});
  expect_in(error_with("/model/dropout", 0.1), {"dropout", "null or 0", "0.1"});
  Json json = byte_level_json();
  json["model"]["dropout"] = 0.0;
  EXPECT_NO_THROW(Tokenizer::from_json(json.dump(), "t.json"));
  expect_in(error_with("/model/unk_token", "<unk>"), {"'<unk>'", "not in the vocabulary"});
  expect_in(error_with("/model/continuing_subword_prefix", "##"), {"merge 0", "continuing_subword_prefix"});
  expect_in(error_with("/model/weights", 1), {"t.json: model", "'weights'"});
  expect_in(
      error_with("/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "[a-z]+"}}}, {"behavior", "Isolated"}, {"invert", false}}),
      {"pre_tokenizer.pattern.Regex", "'[a-z]+'", "CLIP"});
  expect_in(error_with("/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"String", ""}}}, {"behavior", "Isolated"}, {"invert", false}}),
            {"pre_tokenizer.pattern", "empty"});
  const Json trimming = byte_level_json()["post_processor"];
  expect_in(error_with("/post_processor", {{"type", "Sequence"}, {"processors", {trimming, trimming}}}), {"sequence of post-processors"});
  json = byte_level_json();
  json["model"]["byte_fallback"] = true;
  json["model"]["end_of_word_suffix"] = "</w>";
  expect_in(error_of([&] { Tokenizer::from_json(json.dump(), "t.json"); }), {"byte_fallback", "end_of_word_suffix"});
}

TEST(ByteLevel, SpellsEveryByteInItsOwnPrintableLetter) {
  std::vector<bool> seen(0x200, false);
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t letter = byte_letter(static_cast<unsigned char>(byte));
    ASSERT_LT(letter, seen.size());
    EXPECT_FALSE(seen[letter]);
    seen[letter] = true;
    EXPECT_EQ(properties(letter) & (kWhitespace | kControl), 0u) << byte;
  }
  EXPECT_EQ(byte_letter(' '), U'\u0120');
  EXPECT_EQ(byte_letter('\n'), U'\u010A');
  EXPECT_EQ(byte_letter(0xAD), U'\u0143');
}

TEST(ByteLevel, CountsSpaces) {
  const auto around = [](std::string_view token) {
    const SpacesAround found = spaces_around(token);
    return std::pair(found.leading, found.trailing);
  };
  using Counts = std::pair<std::uint32_t, std::uint32_t>;
  EXPECT_EQ(around("\xC4\xA0the"), Counts(1, 0));
  EXPECT_EQ(around("\xC4\xA0\xC4\xA0"), Counts(2, 2));
  EXPECT_EQ(around(" <mask>\xE3\x80\x80 "), Counts(1, 2));
  EXPECT_EQ(around(""), Counts(0, 0));
}

TEST(Patterns, Gpt2) {
  const auto pieces = [](std::string_view text) {
    std::vector<Char> chars;
    decode(text, chars);
    std::vector<std::string> found;
    const auto size = static_cast<std::uint32_t>(chars.size());
    for (std::uint32_t at = 0; at < size;) {
      const std::uint32_t end = gpt2_match(chars, at, size);
      std::string& piece = found.emplace_back();
      for (; at < end; ++at) append_utf8(piece, chars[at].code);
    }
    return found;
  };
  using Pieces = std::vector<std::string>;
  EXPECT_EQ(pieces("it's  we'll 'X"), (Pieces{"it", "'s", " ", " we", "'ll", " '", "X"}));
  EXPECT_EQ(pieces("a1!? \n\n b  "), (Pieces{"a", "1", "!?", " \n\n", " b", "  "}));
  EXPECT_EQ(pieces("\n\nb"), (Pieces{"\n", "\n", "b"}));
  EXPECT_EQ(pieces("'"), (Pieces{"'"}));
}

TEST(TokenizerFolder, ReadsVocabJsonAndMerges) {
  const TempFolder folder;
  const auto error = [&] { return error_of([&] { Tokenizer::open(folder.path()); }); };
  folder.write("vocab.json", R"({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4, "a": 5, "b": 6, "ab": 7})");
  folder.write("merges.txt", "#version: 0.2\na b\r\n");
  expect_in(error(), {"tokenizer_config.json: tokenizer_class", "OFATokenizer, GPT2Tokenizer or CLIPTokenizer"});
  folder.write("config.json", R"({"model_type": "roberta"})");
  auto tokenizer = Tokenizer::open(folder.path());
  EXPECT_EQ(tokenizer->encode("ab<mask>").ids, (Ids{0, 7, 4, 2}));
  EXPECT_EQ(tokenizer->padding_id(), 1);
  folder.write("tokenizer_config.json", R"({"tokenizer_class": "GPT2TokenizerFast", "model_max_length": 9, "unk_token": "<unk>",
                                            "bos_token": "<s>", "eos_token": "</s>"})");
  tokenizer = Tokenizer::open(folder.path());
  EXPECT_EQ(tokenizer->encode("abb").ids, (Ids{7, 6}));
  EXPECT_EQ(tokenizer->model_max_length(), 9);
  folder.write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer"})");
  expect_in(error(), {"LlamaTokenizer"});
  folder.write("tokenizer_config.json", R"({"tokenizer_class": "RobertaTokenizer"})");
  folder.write("merges.txt", "#version: 0.2\na b\na c\n");
  expect_in(error(), {"merges.txt", "merge 1 ('a', 'c')", "'c'"});
  folder.write("merges.txt", "#version: 0.2\na b\n\n");
  expect_in(error(), {"merges.txt: line 3", "one space"});
}

}  // namespace
}  // namespace mmtune::text
