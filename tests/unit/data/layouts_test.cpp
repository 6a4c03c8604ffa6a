// Published layouts, on small made-up files.
#include "data/layouts.h"

#include "data/dataset.h"
#include "unit/data/data_test_support.h"

namespace mmtune::data::test {
namespace {

TEST(Layouts, QuestionsJoinedWithAnnotations) {
  const TempDir dir;
  dir.write("val2014/COCO_val2014_000000000042.jpg", "picture");
  const std::string questions = dir.write(
      "questions.json",
      R"({"info": {}, "questions": [{"image_id": 42, "question": "What is it?", "question_id": 42001}, {"image_id": 42, "question": "Is it?", "question_id": 42002}]})");
  const std::string annotations = dir.write(
      "annotations.json",
      R"({"annotations": [{"question_id": 42002, "image_id": 42, "multiple_choice_answer": "yes", "answers": [{"answer": "yes", "answer_id": 1}, {"answer": "no", "answer_id": 2}]},
          {"question_id": 42001, "image_id": 42, "multiple_choice_answer": "cat", "answers": [{"answer": "cat", "answer_id": 1}]}]})");
  const Dataset dataset =
      read_dataset({.path = questions,
                    .columns = {{"id", "question_id"}, {"text", "question"}, {"image", "val2014/COCO_val2014_{image_id:012}.jpg"}},
                    .join_path = annotations,
                    .join_key = "question_id"});
  ASSERT_EQ(dataset.examples.size(), 2u);
  EXPECT_EQ(dataset.examples[0].id, "42001");
  EXPECT_EQ(*dataset.examples[0].text, "What is it?");
  EXPECT_EQ(read_media(*dataset.examples[0].image), "picture");
  EXPECT_EQ(dataset.examples[0].answers, (std::vector<std::string>{"cat"}));
  EXPECT_EQ(dataset.examples[1].answers, (std::vector<std::string>{"yes", "no"}));
}

TEST(Layouts, KarpathysSplitsGiveOneRowASentence) {
  const TempDir dir;
  dir.write("pictures/val2014/a.jpg", "a");
  dir.write("pictures/b.jpg", "b");
  const std::string path = dir.write(
      "dataset.json",
      R"({"dataset": "flickr30k", "images": [{"filepath": "val2014", "filename": "a.jpg", "imgid": 0, "split": "train", "sentences": [{"raw": "A dog.", "sentid": 0}, {"raw": "It runs.", "sentid": 1}]},
          {"filename": "b.jpg", "imgid": 1, "split": "test", "sentences": [{"raw": "A cat.", "sentid": 2}]}]})");
  const ReadOptions all{.path = path, .columns = {{"image", "pictures/{image}"}}};
  const Dataset dataset = read_dataset(all);
  ASSERT_EQ(dataset.examples.size(), 3u);
  EXPECT_EQ(*dataset.examples[1].text, "It runs.");
  EXPECT_EQ(read_media(*dataset.examples[1].image), "a");
  EXPECT_EQ(read_media(*dataset.examples[2].image), "b");
  EXPECT_EQ(dataset.examples[2].id, "dataset.json:2.1");
  ReadOptions test = all;
  test.where = {{"split", "test"}};
  EXPECT_EQ(read_dataset(test).examples.size(), 1u);
}

TEST(Layouts, Nlvr2NamesItsPictures) {
  const TempDir dir;
  for (const char* name : {"dev-850-0-img0.png", "dev-850-0-img1.png"}) dir.write("dev/" + std::string(name), name);
  const std::string path = dir.write("dev.json",
                                     "{\"identifier\": \"dev-850-0-1\", \"sentence\": \"There are two.\", \"label\": \"True\"}\n"
                                     "{\"identifier\": \"dev-850-0-0\", \"sentence\": \"There is one.\", \"label\": \"False\"}\n");
  const std::string lines =
      dir.write("dev.jsonl", "{\"identifier\": \"dev-850-0-1\", \"sentence\": \"There are two.\", \"label\": \"True\"}\n");
  const Dataset dataset = read_dataset(
      {.path = lines, .columns = {{"id", "identifier"}, {"text", "sentence"}, {"image", "dev/{left}"}, {"image_pair", "dev/{right}"}}});
  ASSERT_EQ(dataset.examples.size(), 1u);
  EXPECT_EQ(read_media(*dataset.examples[0].image), "dev-850-0-img0.png");
  EXPECT_EQ(read_media(*dataset.examples[0].image_pair), "dev-850-0-img1.png");
  // As published: JSON lines in a file that is called .json.
  EXPECT_EQ(read_dataset({.path = path, .columns = {{"text", "sentence"}, {"image", "dev/{left}"}, {"image_pair", "dev/{right}"}}})
                .examples.size(),
            2u);
}

TEST(Layouts, WhatIsNoneOfThem) {
  const TempDir dir;
  const auto read = [&](const char* text) { return message_of([&] { read_dataset({.path = dir.write("x.json", text)}); }); };
  expect_contains(read(R"({"rows": []})"), "known layouts");
  expect_contains(read(R"({"questions": 3})"), "\"questions\"");
  expect_contains(read(R"({"questions": [3]})"), "questions 1");
  expect_contains(read(R"({"images": [{"filename": "a.jpg"}]})"), "images 1");
  expect_contains(read(R"({"images": [{"filename": "a.jpg", "sentences": [{"text": "a"}]}]})"), "sentence 1");
}

}  // namespace
}  // namespace mmtune::data::test
