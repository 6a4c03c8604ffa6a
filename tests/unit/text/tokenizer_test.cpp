#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace mmtune::text {
namespace {

using Ids = std::vector<std::int64_t>;
using Offsets = std::vector<std::pair<std::int64_t, std::int64_t>>;

const char* const kTiny = R"({
  "version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [
    {"id": 0, "content": "[PAD]", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false},
    {"id": 2, "content": "[CLS]", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false},
    {"id": 3, "content": "[SEP]", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}],
  "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
  "pre_tokenizer": {"type": "BertPreTokenizer"},
  "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
  "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
  "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 8,
            "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "##b": 5, "##bc": 6, "caf": 7, "##e": 8, "!": 9, "中": 10}}
})";

std::unique_ptr<Tokenizer> tiny() {
  return Tokenizer::from_json(kTiny, "tiny.json");
}

TEST(Tokenizer, CutsWordsGreedily) {
  const auto encoding = tiny()->encode("abb abc!");
  EXPECT_EQ(encoding.ids, (Ids{2, 4, 5, 5, 4, 6, 9, 3}));
  EXPECT_EQ(encoding.offsets, (Offsets{{0, 0}, {0, 1}, {1, 2}, {2, 3}, {4, 5}, {5, 7}, {7, 8}, {0, 0}}));
  EXPECT_EQ(encoding.special_tokens_mask, (Ids{1, 0, 0, 0, 0, 0, 0, 1}));
  EXPECT_EQ(encoding.attention_mask, Ids(8, 1));
}

TEST(Tokenizer, CountsOffsetsInCodePointsOfTheOriginal) {
  const auto encoding = tiny()->encode("Cafe\xCC\x81 caf\xC3\xA9\xE4\xB8\xAD", {.with_tokens = true});
  EXPECT_EQ(encoding.tokens, (std::vector<std::string>{"[CLS]", "caf", "##e", "caf", "##e", "中", "[SEP]"}));
  EXPECT_EQ(encoding.offsets, (Offsets{{0, 0}, {0, 3}, {3, 4}, {6, 9}, {9, 10}, {10, 11}, {0, 0}}));
}

TEST(Tokenizer, ReplacesInvalidUtf8ByOneCharacterForEachMaximalSubpart) {
  // E4 B8 is a truncated character, FF is none at all; both are cleaned away but counted in the offsets.
  const auto encoding = tiny()->encode(
      "\xE4\xB8"
      "a\xFF"
      "b");
  EXPECT_EQ(encoding.ids, (Ids{2, 4, 5, 3}));
  EXPECT_EQ(encoding.offsets, (Offsets{{0, 0}, {1, 2}, {3, 4}, {0, 0}}));
}

TEST(Tokenizer, LongOrUnknownWordsAreUnknown) {
  EXPECT_EQ(tiny()->encode("abbbbbbbb").ids, (Ids{2, 1, 3}));
  EXPECT_EQ(tiny()->encode("abx").ids, (Ids{2, 1, 3}));
}

TEST(Tokenizer, EncodesPairs) {
  const auto encoding = tiny()->encode_pair("a", "ab");
  EXPECT_EQ(encoding.ids, (Ids{2, 4, 3, 4, 5, 3}));
  EXPECT_EQ(encoding.type_ids, (Ids{0, 0, 0, 1, 1, 1}));
}

TEST(Tokenizer, TruncatesTheLongerSequenceFirst) {
  EXPECT_EQ(tiny()->encode("a a a a", {.max_length = 4}).ids, (Ids{2, 4, 4, 3}));
  EXPECT_EQ(tiny()->encode_pair("a a a a", "!", {.max_length = 6}).ids, (Ids{2, 4, 4, 3, 9, 3}));
  EXPECT_EQ(tiny()->encode_pair("a", "! ! !", {.max_length = 6}).ids, (Ids{2, 4, 3, 9, 9, 3}));
  // Shorter than the special tokens: the package leaves the text whole.
  EXPECT_EQ(tiny()->encode("a a", {.max_length = 1}).ids, (Ids{2, 4, 4, 3}));
}

TEST(Tokenizer, PadsToTheLongest) {
  const auto tokenizer = tiny();
  std::vector<Encoding> batch = {tokenizer->encode("a"), tokenizer->encode("a a a")};
  pad(batch, *tokenizer);
  EXPECT_EQ(batch[0].ids, (Ids{2, 4, 3, 0, 0}));
  EXPECT_EQ(batch[0].attention_mask, (Ids{1, 1, 1, 0, 0}));
  EXPECT_EQ(batch[1].attention_mask, Ids(5, 1));
}

}  // namespace
}  // namespace mmtune::text
