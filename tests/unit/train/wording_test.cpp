// How tasks are put into words: cleaning, instructions, what is taught, and the way back.

#include "train/wording.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace mmtune::train {
namespace {

TEST(CleanWords, AsOfaWasTrained) {
  EXPECT_EQ(clean_words(",.A Semi-Final/Cup,  for <person>! ", 80), "a semi final cup, for person!");
  EXPECT_EQ(clean_words("one two three", 2), "one two");
  EXPECT_EQ(clean_words("...", 5), "");
  EXPECT_EQ(without_punctuation("it's a dog, isn't it?"), "its a dog isnt it");
}

/// Words of one letter each; what it does not know has id 3.
class Letters final : public text::Tokenizer {
 public:
  text::Encoding encode(std::string_view text, const text::EncodeOptions& options) const override {
    text::Encoding encoding;
    if (options.add_special_tokens) encoding.ids.push_back(0);
    for (const char c : text)
      if (c != ' ') encoding.ids.push_back(c >= 'a' && c <= 'z' ? 10 + (c - 'a') : 3);
    if (options.add_special_tokens) encoding.ids.push_back(2);
    return encoding;
  }
  text::Encoding encode_pair(std::string_view text, std::string_view, const text::EncodeOptions& options) const override {
    return encode(text, options);
  }
  std::string decode(std::span<const std::int64_t> ids, bool) const override {
    std::string text;
    for (const std::int64_t id : ids)
      if (id >= 10) text += static_cast<char>('a' + id - 10);
    return text;
  }
  std::int64_t vocabulary_size() const override { return 1100; }
  std::optional<std::int64_t> id_of(std::string_view token) const override {
    if (!token.starts_with("<bin_")) return std::nullopt;
    return 50 + std::stoll(std::string(token.substr(5)));
  }
  std::optional<std::string> token_of(std::int64_t) const override { return std::nullopt; }
  std::int64_t padding_id() const override { return 1; }
  std::int64_t padding_type_id() const override { return 0; }
  std::optional<std::int64_t> model_max_length() const override { return std::nullopt; }
};

Wording::Setup setup(AnswerKind kind, std::vector<std::string> classes = {}) {
  return {.task = kind == AnswerKind::words ? "caption"
                  : kind == AnswerKind::box ? "ground"
                                            : "generate",
          .section = {},
          .kind = kind,
          .classes = std::move(classes),
          .space = nullptr,
          .tokenizer = std::make_shared<Letters>(),
          .tokens = {},
          .vocabulary = 1100,
          .longest = 12};
}

TEST(Wording, InstructionsTakeTheExamplesTexts) {
  Wording::Setup own = setup(AnswerKind::label, {"yes", "no"});
  own.section.instruction = "can \" {text} \" imply \" {text_pair} \"?";
  const Wording wording(own);
  data::Example example;
  example.id = "e";
  example.text = "A {text_pair} B";
  example.text_pair = "C-D";
  EXPECT_EQ(wording.source(example), " can \" a {text_pair} b \" imply \" c d \"?");
  example.text_pair.reset();
  EXPECT_THROW(wording.source(example), Error);
}

TEST(Wording, LabelsAreLearnedBehindThePrompt) {
  Wording::Setup own = setup(AnswerKind::label, {"entailment", "no"});
  own.section.names = {{"entailment", "ya"}};
  own.section.instruction = "{text}";
  data::Example example;
  example.text = "ab";
  example.labels = {0};
  const Taught plain = Wording(own).taught(example);
  EXPECT_EQ(plain.said, (std::vector<std::int64_t>{0, 34, 10}));
  EXPECT_EQ(plain.wanted, (std::vector<std::int64_t>{34, 10, 2}));
  own.section.answer_prompt = AnswerPrompt::source;
  const Wording prompted(own);
  const Taught behind = prompted.taught(example);
  EXPECT_EQ(behind.said, (std::vector<std::int64_t>{0, 10, 11, 34, 10}));
  EXPECT_EQ(behind.wanted, (std::vector<std::int64_t>{-1, -1, 34, 10, 2}));
  EXPECT_TRUE(prompted.ranks());
  EXPECT_EQ(prompted.class_of("ya"), 0);
  EXPECT_EQ(prompted.class_of("entailment"), std::nullopt);
  EXPECT_EQ(prompted.allowed({}), (std::vector<std::int64_t>{34, 23}));
  EXPECT_EQ(prompted.allowed({34, 10}), (std::vector<std::int64_t>{2}));
  EXPECT_EQ(prompted.allowed({99}), (std::vector<std::int64_t>{2}));
}

TEST(Wording, AnnotatorsAgreeOnOneAnswer) {
  Wording::Setup own = setup(AnswerKind::annotators);
  own.section.confidence = true;
  own.section.instruction = "what?";
  const Wording wording(own);
  data::Example example;
  example.answers = {"cab", "the Bad", "bad", "cab", "cab", "bad", "bad", "x", "x", "bad"};
  const Taught taught = wording.taught(example);
  EXPECT_EQ(taught.wanted, (std::vector<std::int64_t>{11, 10, 13, 2}));
  EXPECT_DOUBLE_EQ(taught.confidence, data::soft_score(5, 10));
  example.answers.clear();
  EXPECT_THROW(wording.taught(example), Error);
}

TEST(Wording, CaptionsLoseTheirPunctuation) {
  const Wording wording(setup(AnswerKind::words));
  data::Example example;
  example.answers = {"A b-c."};
  EXPECT_EQ(wording.taught(example).wanted, (std::vector<std::int64_t>{10, 11, 12, 2}));
  example.answers = {std::string(20, 'a')};
  EXPECT_THROW(wording.taught(example), Error);  // longer than the decoder
  const std::vector<std::int64_t> said = {10, 11, 2};
  EXPECT_EQ(wording.words_of(said), "ab");
}

TEST(Wording, BoxesAreFourNumbers) {
  data::Example example;
  example.answers = {"1, 2.5,30,40"};
  EXPECT_EQ(Wording::true_box(example), (BoxCorners{1, 2.5, 30, 40}));
  for (const char* bad : {"1,2,3", "1,2,3,4,5", "3,2,1,4", "a,b,c,d", "", "1,2,nan,4"}) {
    example.answers = {bad};
    EXPECT_THROW(Wording::true_box(example), Error) << bad;
  }
}

TEST(Wording, RefusesListsThatCannotBe) {
  Wording::Setup own = setup(AnswerKind::words);
  own.section.readout = Readout::rank;
  EXPECT_THROW(Wording{own}, UsageError);
  own = setup(AnswerKind::label, {"a", "b"});
  own.section.names = {{"c", "d"}};
  EXPECT_THROW(Wording{own}, UsageError);
  own.section.names = {{"a", "b"}};
  EXPECT_THROW(Wording{own}, UsageError);
  own = setup(AnswerKind::label, {"a", " "});
  EXPECT_THROW(Wording{own}, Error);
}

}  // namespace
}  // namespace mmtune::train
