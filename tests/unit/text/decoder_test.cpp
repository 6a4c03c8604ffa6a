// Ids back to text; every decoder is compared with the reference package in tests/parity/test_decoders.py.
#include <gtest/gtest.h>

#include "core/json.h"
#include "text/tokenizer.h"

namespace mmtune::text {
namespace {

std::unique_ptr<Tokenizer> with_decoder(const Json& decoder) {
  Json json = Json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null, "post_processor": null,
    "added_tokens": [
      {"id": 1, "content": "</s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}],
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
              "vocab": {"[UNK]": 0, "</s>": 1, "play": 2, "##ing": 3, ".": 4, "\u0120caf": 5, "\u00c3": 6, "\u00a9": 7,
                        "<0xC3>": 8, "<0xA9>": 9, "\u2581a": 10}}})");
  json["decoder"] = decoder;
  return Tokenizer::from_json(json.dump(), "t.json");
}

std::string decoded(const Json& decoder, const std::vector<std::int64_t>& ids, bool skip = true) {
  return with_decoder(decoder)->decode(ids, skip);
}

TEST(Decoder, WithoutOneTokensHaveASpaceBetween) {
  EXPECT_EQ(decoded(nullptr, {2, 3, 1}), "play ##ing");
  EXPECT_EQ(decoded(nullptr, {2, 1}, false), "play </s>");
  EXPECT_EQ(decoded(nullptr, {}), "");
}

TEST(Decoder, LeavesOutWhatTheVocabularyLacks) {
  EXPECT_EQ(decoded(nullptr, {2, 99, -1, 4}), "play .");
}

TEST(Decoder, WordPieceJoinsWords) {
  EXPECT_EQ(decoded({{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}}, {2, 3, 2, 4}), "playing play.");
}

TEST(Decoder, BytesBecomeCharactersOnlyTogether) {
  const Json byte_level = {{"type", "ByteLevel"}};
  EXPECT_EQ(decoded(byte_level, {5, 6, 7}), " caf\xC3\xA9");
  EXPECT_EQ(decoded(byte_level, {5, 6}), " caf\xEF\xBF\xBD");
  const Json fallback = {{"type", "Sequence"}, {"decoders", {{{"type", "ByteFallback"}}, {{"type", "Fuse"}}}}};
  EXPECT_EQ(decoded(fallback, {8, 9, 2}), "\xC3\xA9play");
  EXPECT_EQ(decoded(fallback, {8, 2, 9}), "\xEF\xBF\xBDplay\xEF\xBF\xBD");
}

TEST(Decoder, MetaspaceLosesTheFirstSpaceOnly) {
  EXPECT_EQ(decoded({{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "always"}, {"split", true}}, {10, 10}), "a a");
  EXPECT_EQ(decoded({{"type", "Metaspace"}, {"replacement", "\u2581"}, {"add_prefix_space", false}}, {10, 10}), " a a");
}

}  // namespace
}  // namespace mmtune::text
