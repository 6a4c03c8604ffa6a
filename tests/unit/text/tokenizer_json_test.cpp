// What a tokenizer.json may not say, and what the message names.
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/support.h"
#include "text/tokenizer.h"

namespace mmtune::text {
namespace {

using test::error_of;

Json good() {
  return Json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [
      {"id": 1, "content": "[CLS]", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}],
    "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
              "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3}}})");
}

std::string error_of_json(const Json& json) {
  return error_of([&] { Tokenizer::from_json(json.dump(), "t.json"); });
}

/// The message where the good file has `value` at a JSON pointer.
std::string error_with(const std::string& pointer, const Json& value) {
  Json json = good();
  json[Json::json_pointer(pointer)] = value;
  return error_of_json(json);
}

void expect_in(const std::string& message, std::initializer_list<std::string> parts) {
  for (const auto& part : parts) EXPECT_NE(message.find(part), std::string::npos) << "no '" << part << "' in: " << message;
}

TEST(TokenizerJson, ReadsTheGoodOne) {
  EXPECT_EQ(Tokenizer::from_json(good().dump(), "t.json")->vocabulary_size(), 4);
}

TEST(TokenizerJson, RefusesUnsupportedComponentsByName) {
  expect_in(error_with("/normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", ""}}), {"t.json: normalizer", "damaged"});
  expect_in(error_with("/normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, {{"type", "Nmt"}}}}}),
            {"normalizer[1]", "'Nmt'"});
  expect_in(error_with("/normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", "a+"}}}, {"content", ""}}),
            {"normalizer.pattern.Regex", "'a+'"});
  expect_in(error_with("/pre_tokenizer", {{"type", "Digits"}, {"individual_digits", true}}), {"pre_tokenizer", "'Digits'"});
  expect_in(error_with("/post_processor", {{"type", "Nothing"}}), {"post_processor", "'Nothing'"});
  expect_in(error_with("/model/type", "WordLevel"), {"model", "'WordLevel'"});
  expect_in(error_with("/version", "2.0"), {"version", "\"2.0\""});
}

TEST(TokenizerJson, RefusesSettingsThatItDoesNotKnow) {
  expect_in(error_with("/normalizer/keep_emoji", true), {"t.json: normalizer", "'keep_emoji'"});
  expect_in(error_with("/model/dropout", 0.1), {"t.json: model", "'dropout'"});
  expect_in(error_with("/added_tokens/0/weight", 1), {"added_tokens[0]", "'weight'"});
}

TEST(TokenizerJson, RefusesMissingAndWrongValues) {
  Json json = good();
  json["model"].erase("unk_token");
  expect_in(error_of_json(json), {"model", "unk_token"});
  json = good();
  json.erase("model");
  expect_in(error_of_json(json), {"t.json", "model"});
  expect_in(error_with("/normalizer/lowercase", "yes"), {"lowercase", "true or false", "yes"});
  expect_in(error_with("/model/max_input_chars_per_word", -1), {"max_input_chars_per_word", "-1"});
  expect_in(error_with("/model/max_input_chars_per_word", std::uint64_t{1} << 63), {"max_input_chars_per_word"});
  expect_in(error_with("/model/vocab", Json::array()), {"vocab", "an object"});
  expect_in(error_with("/pre_tokenizer", {{"type", "Punctuation"}, {"behavior", "Split"}}), {"behavior", "Contiguous"});
  expect_in(error_with("/truncation", {{"max_length", 5}, {"strategy", "Middle"}, {"stride", 0}}), {"truncation", "Middle"});
  expect_in(error_of([] { Tokenizer::from_json("[]", "t.json"); }), {"t.json", "an object"});
}

TEST(TokenizerJson, RefusesAmbiguousVocabularies) {
  expect_in(error_with("/model/vocab/b", 3), {"'a'", "'b'", "same id 3"});
  expect_in(error_with("/model/vocab/b", -7), {"'b'", "out of range", "-7"});
  expect_in(error_with("/model/vocab/b", std::uint64_t{1} << 40), {"'b'", "out of range"});
  expect_in(error_with("/model/vocab/b", 1.5), {"'b'", "an integer"});
  expect_in(error_with("/model/unk_token", "[unknown]"), {"[unknown]", "not in the vocabulary"});
  expect_in(error_with("/model/vocab/" + std::string(5000, 'x'), 4), {"too long", "5000"});
}

TEST(TokenizerJson, RefusesAddedTokensThatTheReferenceWouldNumberOtherwise) {
  Json token = good()["added_tokens"][0];
  token["content"] = "<x>";
  token["id"] = 7;
  expect_in(error_with("/added_tokens/1", token), {"'<x>'", "expected 4, got 7"});
  token["id"] = 4;
  token["content"] = "";
  expect_in(error_with("/added_tokens/1", token), {"empty"});
  token["content"] = "\xCC\x81";
  token["normalized"] = true;
  expect_in(error_with("/added_tokens/1", token), {"normalises to nothing"});
  expect_in(error_with("/added_tokens/1", good()["added_tokens"][0]), {"[CLS]", "twice"});
}

TEST(TokenizerJson, RefusesTemplatesThatPointNowhere) {
  Json post = {{"type", "TemplateProcessing"},
               {"single", {{{"Sequence", {{"id", "B"}, {"type_id", 0}}}}}},
               {"pair", Json::array()},
               {"special_tokens", Json::object()}};
  expect_in(error_with("/post_processor", post), {"single[0]", "expected A"});
  post["single"] = {{{"SpecialToken", {{"id", "[X]"}, {"type_id", 0}}}}};
  expect_in(error_with("/post_processor", post), {"single[0]", "[X]"});
  post["single"] = Json::array();
  for (int i = 0; i < 100; ++i) post["single"].push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  expect_in(error_with("/post_processor", post), {"'single' is too long"});
  post["single"] = Json::array();
  post["special_tokens"] = {{"S", {{"id", "S"}, {"ids", {1, 2}}, {"tokens", {"a"}}}}};
  expect_in(error_with("/post_processor", post), {"special_tokens.S", "2 and 1"});
}

TEST(TokenizerJson, BoundsWhatANormalizerMayMakeOfAText) {
  Json growth = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(1000, 'a')}};
  Json json = good();
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", {growth, growth, growth, growth}}};
  const auto tokenizer = Tokenizer::from_json(json.dump(), "t.json");
  expect_in(error_of([&] { tokenizer->encode("a"); }), {"too long"});
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", std::vector<Json>(1000, {{"type", "NFC"}})}};
  expect_in(error_of_json(json), {"too many components"});
}

}  // namespace
}  // namespace mmtune::text
