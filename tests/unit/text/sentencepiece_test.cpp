// SentencePiece model files: what is read and what is refused. Encodings are compared with the package in
// tests/parity/test_sentencepiece.py.
#include <gtest/gtest.h>

#include <cstring>

#include "core/base64.h"
#include "support/support.h"
#include "text/byte_trie.h"
#include "text/sentencepiece_file.h"
#include "text/tokenizer.h"

namespace mmtune::text {
namespace {

using test::error_of;

std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

std::string number(int field, std::uint64_t value) {
  return varint(static_cast<std::uint64_t>(field) << 3) + varint(value);
}

std::string bytes(int field, const std::string& content) {
  return varint(static_cast<std::uint64_t>(field) << 3 | 2) + varint(content.size()) + content;
}

std::string piece(const std::string& text, float score, int type) {
  std::string four(4, '\0');
  std::memcpy(four.data(), &score, 4);
  return bytes(1, bytes(1, text) + varint(2 << 3 | 5) + four + number(3, static_cast<std::uint64_t>(type)));
}

std::string pieces() {
  return piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3) + piece("\xE2\x96\x81", -1, 1) + piece("a", -2, 1) +
         piece("b", -2, 1) + piece("ab", -3, 1) +
         piece(
             "\xE2\x96\x81"
             "a",
             -1.5F, 1);
}

SentencePieceFile read(const std::string& content) {
  return read_sentencepiece_file(content, "m");
}

std::string refused(const std::string& content) {
  return error_of([&] { read(content); });
}

void expect_in(const std::string& message, std::initializer_list<std::string> parts) {
  for (const auto& part : parts) EXPECT_NE(message.find(part), std::string::npos) << "no '" << part << "' in: " << message;
}

TEST(SentencePieceFile, ReadsPiecesAndDefaults) {
  const SentencePieceFile file = read(pieces());
  ASSERT_EQ(file.pieces.size(), 8U);
  EXPECT_EQ(file.pieces[4].text, "a");
  EXPECT_EQ(file.pieces[4].score, -2.0F);
  EXPECT_EQ(file.pieces[1].type, PieceType::control);
  EXPECT_EQ(file.kind, SentencePieceKind::unigram);
  EXPECT_TRUE(file.add_dummy_prefix && file.remove_extra_whitespaces && file.escape_whitespaces);
}

TEST(SentencePieceFile, ReadsItsSettingsAndSkipsTheRest) {
  const std::string trainer = number(3, 2) + bytes(1, "corpus.txt") + number(40, 0) + bytes(44, "?");
  const std::string normalizer = number(3, 0) + number(4, 0) + bytes(1, "identity");
  const std::string group = varint(9 << 3 | 3) + varint(10 << 3 | 3) + number(1, 7) + varint(10 << 3 | 4) + varint(9 << 3 | 4);
  const std::string fixed = varint(300 << 3 | 1) + std::string(8, 'x');
  const SentencePieceFile file = read(group + bytes(2, trainer) + pieces() + bytes(3, normalizer) + fixed);
  EXPECT_EQ(file.kind, SentencePieceKind::bpe);
  EXPECT_EQ(file.unknown_surface, "?");
  EXPECT_FALSE(file.add_dummy_prefix || file.remove_extra_whitespaces);
}

TEST(SentencePieceFile, RefusesDamage) {
  expect_in(refused(varint(1 << 3 | 2) + varint(1000) + "abc"), {"'pieces' is longer than what is left", "m, byte"});
  expect_in(refused(varint(1 << 3 | 2) + std::string(9, '\xFF') + "\x01"), {"longer than what is left"});
  expect_in(refused(varint(1 << 3 | 2) + std::string(10, '\xFF')), {"more than 64 bits"});
  expect_in(refused("\x0A\xFF"), {"a number is cut off"});
  expect_in(refused(number(1, 3)), {"'pieces' has the wrong wire type 0"});
  expect_in(refused(pieces() + "\x0F"), {"cannot be"});
  expect_in(refused(varint(9 << 3 | 3)), {"a group has no end"});
  expect_in(refused(varint(9 << 3 | 4)), {"a group ends that did not begin"});
  std::string deep;
  for (int i = 0; i < 40; ++i) deep += varint(9 << 3 | 3);
  expect_in(refused(deep), {"nested too deeply"});
}

TEST(SentencePieceFile, RefusesWhatCannotBe) {
  expect_in(refused(""), {"unknown pieces", "expected one, got 0"});
  expect_in(refused(pieces() + piece("u", 0, 2)), {"got 2"});
  expect_in(refused(pieces() + piece("a", 0, 1)), {"'a' stands there twice"});
  expect_in(refused(pieces() + piece("", 0, 1)), {"piece 8", "empty"});
  expect_in(refused(pieces() + piece("\xFF", 0, 1)), {"not UTF-8"});
  expect_in(refused(pieces() + piece("x", std::numeric_limits<float>::infinity(), 1)), {"is no number"});
  expect_in(refused(pieces() + piece("x", 0, 9)), {"unknown piece type 9"});
  expect_in(refused(pieces() + piece("<0x41>", 0, 6)), {"byte pieces", "none without byte_fallback"});
  expect_in(refused(pieces() + bytes(2, number(3, 4))), {"CHAR", "UNIGRAM or BPE"});
  expect_in(refused(pieces() + bytes(2, number(24, 1))), {"treat_whitespace_as_suffix"});
  expect_in(refused(pieces() + bytes(5, bytes(2, "x"))), {"denormalizer"});
}

TEST(SentencePieceFolder, EncodesAndDecodes) {
  const test::TempFolder folder;
  folder.write("tokenizer.model", pieces());
  folder.write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer"})");
  const auto tokenizer = Tokenizer::open(folder.path());
  const Encoding encoding = tokenizer->encode(" ab  \xC3\xA9</s>b", {.with_tokens = true});
  EXPECT_EQ(encoding.ids, (std::vector<std::int64_t>{1, 7, 5, 3, 0, 2, 5}));
  EXPECT_EQ(encoding.tokens[4], "\xC3\xA9");
  EXPECT_EQ(tokenizer->decode(encoding.ids), "ab b");
  EXPECT_EQ(tokenizer->decode(encoding.ids, false), "<s> ab <unk></s>b");
}

TEST(SentencePieceFolder, WithoutAClassIsThePiecesAlone) {
  const test::TempFolder folder;
  folder.write("spiece.model", pieces());
  const auto tokenizer = Tokenizer::open(folder.path());
  EXPECT_EQ(tokenizer->encode("ab \xC3\xA9").ids, (std::vector<std::int64_t>{7, 5, 3, 0}));
  EXPECT_EQ(tokenizer->decode(std::vector<std::int64_t>{1, 7, 5, 3, 0, 2}), "ab  \xE2\x81\x87 ");
}

TEST(SentencePieceFolder, ATableThatPointsOutsideItselfIsAnError) {
  const test::TempFolder folder;
  std::string table("\x04\0\0\0", 4);  // one unit whose children lie far away
  table += std::string("\x00\xFF\xFF\x00", 4) + "x";
  folder.write("tokenizer.model", pieces() + bytes(3, bytes(2, table)));
  const auto tokenizer = Tokenizer::open(folder.path());
  expect_in(error_of([&] { tokenizer->encode("a"); }), {"precompiled_charsmap", "points outside itself"});
}

TEST(ByteTrie, FindsKeysAndNothingElse) {
  std::vector<std::string> keys;
  for (int i = 0; i < 3000; ++i) keys.push_back(std::to_string(i * 7919 % 100003) + (i % 3 == 0 ? "\xFF" : "\x01"));
  std::vector<ByteTrie::Entry> entries;
  for (std::size_t i = 0; i < keys.size(); ++i) entries.push_back({keys[i], static_cast<std::int32_t>(i)});
  const ByteTrie trie(entries);
  for (std::size_t i = 0; i < keys.size(); ++i) {
    std::uint32_t node = ByteTrie::kRoot;
    for (const char c : keys[i]) {
      node = trie.child(node, static_cast<unsigned char>(c));
      ASSERT_NE(node, ByteTrie::kNone);
    }
    EXPECT_EQ(trie.value(node), static_cast<std::int32_t>(i));
    for (int byte = 0; byte < 256; ++byte) EXPECT_EQ(trie.child(node, static_cast<unsigned char>(byte)), ByteTrie::kNone);
    EXPECT_EQ(trie.longest(keys[i] + "x"), keys[i].size());
  }
  EXPECT_EQ(trie.longest("x"), 0U);
  EXPECT_EQ(ByteTrie().longest("x"), 0U);
}

TEST(Base64, Decodes) {
  EXPECT_EQ(decode_base64("", "b"), "");
  EXPECT_EQ(decode_base64("TWFu", "b"), "Man");
  EXPECT_EQ(decode_base64("TWE=", "b"), "Ma");
  EXPECT_EQ(decode_base64("TQ==\n", "b"), "M");
  EXPECT_EQ(decode_base64("TQ", "b"), "M");
  EXPECT_EQ(decode_base64("-_8=", "b"), "\xFB\xFF");
}

TEST(Base64, Refuses) {
  expect_in(error_of([] { decode_base64("T", "b"); }), {"b: bad base64", "cut off"});
  expect_in(error_of([] { decode_base64("TQ=", "b"); }), {"cut off"});
  expect_in(error_of([] { decode_base64("TQ==TQ==", "b"); }), {"behind the padding"});
  expect_in(error_of([] { decode_base64("T!Q=", "b"); }), {"'!'"});
  expect_in(error_of([] { decode_base64("TR==", "b"); }), {"bits left over"});
}

}  // namespace
}  // namespace mmtune::text
