// The real data sets that may lie beside the project: what their READMEs promise is what is read.
#include "data/dataset.h"
#include "unit/data/data_test_support.h"

namespace mmtune::data::test {
namespace {

class Packs : public testing::Test {
 protected:
  void SetUp() override {
    if (shared_data().empty()) GTEST_SKIP() << "no ../shared/data here (MMTUNE_SHARED names another place)";
  }
  static std::string at(const std::string& name) { return (shared_data() / name).string(); }
};

struct PackCase {
  const char* manifest;
  const char* split;
  std::size_t examples;
};

TEST_F(Packs, ImageSetsWithTheirSplits) {
  const PackCase cases[] = {
      {"eurosat", "train", 2500},      {"eurosat", "val", 500},     {"eurosat", "test", 1000},  {"fashion_mnist", "train", 3000},
      {"fashion_mnist", "test", 1000}, {"caltech20", "train", 400}, {"caltech20", "val", 100},  {"caltech20", "test", 300},
      {"clothing10", "train", 300},    {"clothing10", "test", 179}, {"flowers5", "train", 200}, {"flowers5", "test", 150},
      {"emoji", "train", 2262},        {"emoji", "test", 648},
  };
  for (const PackCase& item : cases) {
    SCOPED_TRACE(item.manifest);
    const std::string folder = at(item.manifest);
    ReadOptions options{.path = folder + "/manifest.jsonl", .where = {{"split", item.split}}, .require_labels = true};
    options.classes = read_class_names(folder + "/classes.txt");
    const Dataset dataset = read_dataset(options);
    EXPECT_EQ(dataset.examples.size(), item.examples);
    for (std::size_t i = 0; i < dataset.examples.size(); i += 97) {
      const std::string bytes = read_media(*dataset.examples[i].image);
      EXPECT_EQ(bytes.size(), dataset.examples[i].image->size);
      EXPECT_TRUE(bytes.starts_with("\x89PNG\r\n\x1a\n") || bytes.starts_with("\xff\xd8\xff")) << dataset.examples[i].id;
    }
    // The label by name is the label by number.
    options.columns = {{"label", "class_name"}};
    const Dataset named = read_dataset(options);
    for (std::size_t i = 0; i < dataset.examples.size(); ++i) EXPECT_EQ(dataset.examples[i].labels, named.examples[i].labels);
  }
}

TEST_F(Packs, MembersAreWhereTheManifestSays) {
  const Dataset dataset = read_dataset({.path = at("eurosat/manifest.jsonl"), .where = {{"split", "test"}}});
  const MediaRef& told = *dataset.examples[17].image;
  const MediaRef looked_up{told.file, told.member, 0, 0};
  EXPECT_EQ(read_media(told), read_media(looked_up));
}

TEST_F(Packs, EasyVqaJoinsItsImages) {
  ReadOptions options{.path = at("easy_vqa/questions_train.jsonl"),
                      .columns = {{"text", "question"}, {"label", "answer"}},
                      .join_path = at("easy_vqa/images.jsonl"),
                      .join_key = "image_id",
                      .join_where = {{"split", "train"}}};
  options.classes = read_class_names(at("easy_vqa/answers.txt"));
  options.where = {{"image_id", "<3600"}};
  const Dataset train = read_dataset(options);
  options.where = {{"image_id", ">=3600"}};
  const Dataset valid = read_dataset(options);
  EXPECT_EQ(train.examples.size() + valid.examples.size(), 38575u);
  EXPECT_EQ(train.classes.size(), 13u);
  EXPECT_EQ(train.examples[0].image->member, "train/0.png");
  EXPECT_EQ(valid.examples[0].image->member, "train/3600.png");

  options.path = at("easy_vqa/questions_test.jsonl");
  options.where.clear();
  options.join_where = {{"split", "test"}};
  const Dataset test = read_dataset(options);
  EXPECT_EQ(test.examples.size(), 9673u);
  EXPECT_EQ(test.examples[0].image->member, "test/0.png");
  EXPECT_TRUE(read_media(*test.examples[0].image).starts_with("\x89PNG"));
  options.join_where.clear();
  expect_contains(message_of([&] { read_dataset(options); }), "a second row with image_id '0'");
}

TEST_F(Packs, TextSets) {
  const PackCase cases[] = {{"mr_polarity", "train", 8529},  {"mr_polarity", "val", 1066}, {"mr_polarity", "test", 1067},
                            {"subjectivity", "train", 8000}, {"snips", "train", 13085},    {"snips", "val", 699},
                            {"snips", "test", 700},          {"banking77", "train", 9459}, {"banking77", "test", 3080}};
  for (const PackCase& item : cases) {
    SCOPED_TRACE(item.manifest);
    const std::string folder = at("text/" + std::string(item.manifest)) + "/";
    const Dataset dataset =
        read_dataset({.path = folder + item.split + ".jsonl", .classes = read_class_names(folder + "labels.txt"), .require_labels = true});
    EXPECT_EQ(dataset.examples.size(), item.examples);
  }
  const Dataset nli =
      read_dataset({.path = at("text/breaking_nli/test.jsonl"), .columns = {{"text", "premise"}, {"text_pair", "hypothesis"}}});
  EXPECT_EQ(nli.examples.size(), 2383u);
  EXPECT_EQ(nli.classes, (std::vector<std::string>{"0", "1", "2"}));
  EXPECT_TRUE(nli.examples[0].text_pair.has_value());
}

TEST_F(Packs, SentencesWithPicturesAndSounds) {
  const Dataset nlvr = read_dataset({.path = at("nlvr/manifest.jsonl"), .columns = {{"text", "sentence"}}, .where = {{"split", "test"}}});
  EXPECT_EQ(nlvr.examples.size(), 990u);
  EXPECT_TRUE(nlvr.examples[0].text && nlvr.examples[0].image);

  ReadOptions digits{.path = at("mnist_fsdd/av_pairs.jsonl"), .where = {{"split", "test"}}};
  digits.join_path = at("mnist_fsdd/fsdd_manifest.jsonl");
  digits.join_key = "fsdd_id";
  digits.join_other_key = "id";
  const Dataset pairs = read_dataset(digits);
  EXPECT_EQ(pairs.examples.size(), 1000u);
  EXPECT_EQ(pairs.classes.size(), 10u);
  EXPECT_FALSE(pairs.examples[0].image);
  EXPECT_TRUE(read_media(*pairs.examples[0].audio).starts_with("RIFF"));

  const Dataset cells = read_dataset({.path = at("bccd/manifest.jsonl"), .columns = {{"label", "count_platelets"}}});
  EXPECT_EQ(cells.examples.size(), 364u);
  EXPECT_EQ(cells.classes.front(), "0");
}

}  // namespace
}  // namespace mmtune::data::test
