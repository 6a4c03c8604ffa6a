// What comes out of every format, and which options change it. Errors are in dataset_errors_test.cpp.
#include "data/dataset.h"

#include "data/labels.h"
#include "unit/data/data_test_support.h"

namespace mmtune::data::test {
namespace {

using Ids = std::vector<std::string>;
using Labels = std::vector<std::int64_t>;

Ids ids(const Dataset& dataset) {
  Ids result;
  for (const Example& example : dataset.examples) result.push_back(example.id);
  return result;
}

TEST(Dataset, ManifestWithEveryField) {
  const TempDir dir;
  dir.write("cat.png", "cat");
  dir.write("sound/a.wav", "meow");
  dir.write("s.tar", tar_entry({"dog.png", "woof"}) + tar_end());
  const std::string path = dir.write("m.jsonl",
                                     "\xef\xbb\xbf{\"id\": \"x\", \"text\": \"Größe\", \"text_pair\": \"b\", \"image\": \"cat.png\", "
                                     "\"image_pair\": \"s.tar#dog.png\", \"audio\": \"sound/a.wav\", \"label\": \"yes\", "
                                     "\"answers\": [\"yes\", 2, true], \"other\": {\"deep\": []}}\r\n"
                                     "\n"
                                     "{\"id\": 7, \"text\": null, \"image\": \"cat.png\", \"label\": null}\n"
                                     "{\"text\": \"no id\", \"label\": \"no\"}");
  const Dataset dataset = read_dataset({.path = path});
  ASSERT_EQ(dataset.examples.size(), 3u);
  EXPECT_EQ(ids(dataset), (Ids{"x", "7", "m.jsonl:4"}));
  EXPECT_EQ(dataset.classes, (std::vector<std::string>{"no", "yes"}));
  const Example& first = dataset.examples[0];
  EXPECT_EQ(*first.text, "Größe");
  EXPECT_EQ(*first.text_pair, "b");
  EXPECT_EQ(read_media(*first.image), "cat");
  EXPECT_EQ(read_media(*first.image_pair), "woof");
  EXPECT_EQ(first.image_pair->offset, 512u) << "members are looked up when the manifest is read";
  EXPECT_EQ(read_media(*first.audio), "meow");
  EXPECT_EQ(first.labels, Labels{1});
  EXPECT_EQ(first.answers, (Ids{"yes", "2", "true"}));
  EXPECT_FALSE(dataset.examples[1].text);
  EXPECT_TRUE(dataset.examples[1].labels.empty());
  EXPECT_FALSE(dataset.examples[2].image);
  EXPECT_EQ(dataset.source, path);
  EXPECT_FALSE(dataset.multi_label);
}

TEST(Dataset, PackRowsNameTheirShard) {
  const TempDir dir;
  dir.write("train.tar", tar_entry({"a.png", "AAAA"}) + tar_entry({"b.WAV", "BB"}) + tar_end());
  const std::string path = dir.write("m.jsonl", R"({"label": 0, "shard": "train.tar", "member": "a.png", "offset": 512, "size": 4})"
                                                "\n"
                                                R"({"label": 1, "shard": "train.tar", "member": "b.WAV", "offset": 1536, "size": 2})"
                                                "\n"
                                                R"({"label": 1, "shard": "train.tar", "offset": 513, "size": 2})"
                                                "\n"
                                                R"({"label": 1, "shard": "train.tar", "member": "a.png"})"
                                                "\n"
                                                R"({"label": 0, "image": "train.tar", "shard": "nowhere.tar", "offset": 1, "size": 2})"
                                                "\n");
  const Dataset dataset = read_dataset({.path = path});
  EXPECT_EQ(read_media(*dataset.examples[0].image), "AAAA");
  EXPECT_EQ(read_media(*dataset.examples[1].audio), "BB");
  EXPECT_FALSE(dataset.examples[1].image);
  EXPECT_EQ(read_media(*dataset.examples[2].image), "AA");
  EXPECT_EQ(read_media(*dataset.examples[3].image), "AAAA");
  EXPECT_EQ(dataset.examples[4].image->size, 0u) << "a row's own image comes first";
}

TEST(Dataset, ColumnsOfSeveralFields) {
  const TempDir folder;
  folder.write("pictures/17.jpg", "x");
  const std::string path = folder.write("a.jsonl", R"({"photo": 17, "who": "Ann", "said": "hello", "label": "a"})"
                                                   "\n"
                                                   R"({"who": "Bob", "said": "ho", "label": "b"})"
                                                   "\n");
  const Dataset dataset = read_dataset({.path = path, .columns = {{"image", "pictures/{photo}.jpg"}, {"text", "{who}: {said}!"}}});
  ASSERT_EQ(dataset.examples.size(), 2U);
  EXPECT_EQ(dataset.examples[0].text, "Ann: hello!");
  ASSERT_TRUE(dataset.examples[0].image);
  EXPECT_EQ(dataset.examples[0].image->file.filename(), "17.jpg");
  EXPECT_FALSE(dataset.examples[1].image);
  EXPECT_EQ(dataset.examples[1].text, "Bob: ho!");
  const std::string message = message_of([&] { read_dataset({.path = path, .columns = {{"text", "{nobody}"}}}); });
  expect_contains(message, "{nobody}");
}

TEST(Dataset, JsonList) {
  const TempDir dir;
  const std::string path = dir.write("m.json", R"([{"text": "a", "label": 1}, {"text": "b", "label": 0}])");
  const Dataset dataset = read_dataset({.path = path});
  EXPECT_EQ(ids(dataset), (Ids{"m.json:1", "m.json:2"}));
  EXPECT_EQ(dataset.examples[0].labels, Labels{1});
}

TEST(Dataset, JsonObjectOfRowsInTheOrderOfTheFile) {
  const TempDir dir;
  const std::string path = dir.write("m.json",
                                     R"({"b2": {"text": "x", "label": true}, "a1": {"text": "y", "label": false},
                                         "c": {"id": "own", "text": "z", "label": true}})");
  const Dataset dataset = read_dataset({.path = path});
  EXPECT_EQ(ids(dataset), (Ids{"b2", "a1", "own"}));
  EXPECT_EQ(dataset.classes, (std::vector<std::string>{"false", "true"}));
  EXPECT_EQ(ids(read_dataset({.path = path, .where = {{"row_number", "<2"}}})), (Ids{"b2", "a1"}));
  EXPECT_EQ(ids(read_dataset({.path = path, .where = {{"row_number", ">=2"}}})), (Ids{"own"}));
  EXPECT_THROW(read_dataset({.path = dir.write("bad.json", R"({"a": {"text": "x"}, "b": 3})")}), Error);
  EXPECT_THROW(read_dataset({.path = dir.write("twice.json", R"({"a": {"text": "x"}, "a": {"text": "y"}})")}), Error);
}

TEST(Dataset, ARowNumberOfTheFileIsItsOwn) {
  const TempDir dir;
  const std::string path = dir.write("m.jsonl", "{\"text\": \"x\", \"row_number\": 5}\n{\"text\": \"y\"}\n");
  EXPECT_EQ(read_dataset({.path = path, .where = {{"row_number", "5"}}}).examples.size(), 1u);
  EXPECT_EQ(*read_dataset({.path = path, .where = {{"row_number", "1"}}}).examples.at(0).text, "y");
}

TEST(Dataset, VideosAreFilesOrFoldersOfFrames) {
  const TempDir dir;
  dir.write("clips/a/1.png", "one");
  dir.write("clips/a/2.png", "two");
  dir.write("b.mp4", "film");
  const auto rows = [&](const std::string& video) { return dir.write("m.jsonl", "{\"video\": \"" + video + "\"}\n"); };
  const Dataset folder = read_dataset({.path = rows("clips/a")});
  ASSERT_TRUE(folder.examples[0].video.has_value());
  EXPECT_EQ(folder.examples[0].video->file.filename(), "a");
  const std::string before = folder.fingerprint;
  dir.write("clips/a/3.png", "three");
  EXPECT_NE(read_dataset({.path = rows("clips/a")}).fingerprint, before);
  EXPECT_EQ(read_media(*read_dataset({.path = rows("b.mp4")}).examples[0].video), "film");
  dir.write("clips/empty/notes.txt", "");
  EXPECT_THROW(read_dataset({.path = rows("clips/empty")}), Error);
  EXPECT_THROW(read_dataset({.path = rows("missing.mp4")}), Error);
}

TEST(Dataset, CsvAndTsv) {
  const TempDir dir;
  dir.write("p/1.png", "one");
  const std::string csv = dir.write("m.csv", ",text,image,label\n0,\"Hello, \"\"you\"\"\",p/1.png,b\n1,plain,,a\n");
  const Dataset dataset = read_dataset({.path = csv});
  EXPECT_EQ(*dataset.examples[0].text, "Hello, \"you\"");
  EXPECT_EQ(read_media(*dataset.examples[0].image), "one");
  EXPECT_FALSE(dataset.examples[1].image) << "an empty cell is a missing modality";
  EXPECT_EQ(dataset.examples[0].labels, Labels{1});

  const std::string tsv = dir.write("m.TSV", "sentence\tgold\n\"quoted start\t10\nb\t9\n");
  const Dataset other = read_dataset({.path = tsv, .columns = {{"text", "sentence"}, {"label", "gold"}}, .quotes = false});
  EXPECT_EQ(*other.examples[0].text, "\"quoted start");
  EXPECT_EQ(other.classes, (Ids{"9", "10"})) << "numbers are sorted as numbers";
}

TEST(Dataset, CsvWithShards) {
  const TempDir dir;
  dir.write("t.tar", tar_entry({"a.png", "AAAA"}) + tar_end());
  const Dataset dataset = read_dataset({.path = dir.write("m.csv", "shard,offset,size,label\nt.tar,512,4,x\n")});
  EXPECT_EQ(read_media(*dataset.examples[0].image), "AAAA");
}

TEST(Dataset, ImageFolder) {
  const TempDir dir;
  dir.write("set/dog/2.PNG", "d2");
  dir.write("set/dog/1.jpg", "d1");
  dir.write("set/cat/deep/3.webp", "c3");
  dir.write("set/cat/notes.txt", "");
  dir.write("set/.hidden/4.jpg", "");
  dir.write("set/LICENSE", "");
  const Dataset dataset = read_dataset({.path = (dir.path() / "set").string()});
  EXPECT_EQ(ids(dataset), (Ids{"cat/deep/3.webp", "dog/1.jpg", "dog/2.PNG"}));
  EXPECT_EQ(dataset.classes, (Ids{"cat", "dog"}));
  EXPECT_EQ(dataset.examples[2].labels, Labels{1});
  EXPECT_EQ(read_media(*dataset.examples[2].image), "d2");

  const Dataset one = read_dataset({.path = (dir.path() / "set/dog").string() + "/"});
  EXPECT_EQ(ids(one), (Ids{"1.jpg", "2.PNG"}));
  EXPECT_TRUE(one.classes.empty()) << "pictures right in the folder have no label";
}

TEST(Dataset, ImageFolderWithSplits) {
  const TempDir dir;
  dir.write("set/train/cat/1.png", "");
  dir.write("set/train/dog/2.png", "");
  dir.write("set/test/cat/3.png", "");
  const std::string path = (dir.path() / "set").string();
  EXPECT_EQ(ids(read_dataset({.path = path})), (Ids{"test/cat/3.png", "train/cat/1.png", "train/dog/2.png"}));
  EXPECT_EQ(ids(read_dataset({.path = path, .where = {{"split", "train"}}})), (Ids{"train/cat/1.png", "train/dog/2.png"}));
  EXPECT_EQ(read_dataset({.path = path + "/test"}).classes, Ids{"cat"});
}

TEST(Dataset, JoinTakesWhatTheRowLacks) {
  const TempDir dir;
  dir.write("img/t.tar", tar_entry({"0.png", "train0"}) + tar_entry({"1.png", "train1"}) + tar_end());
  dir.write("img/v.tar", tar_entry({"0.png", "test0"}) + tar_end());
  const std::string images =
      dir.write("img/images.jsonl", R"({"id": "i0", "split": "train", "image_id": 0, "shard": "t.tar", "member": "0.png"})"
                                    "\n"
                                    R"({"id": "i1", "split": "train", "image_id": 1, "shard": "t.tar", "member": "1.png"})"
                                    "\n"
                                    R"({"id": "j0", "split": "test", "image_id": 0, "shard": "v.tar", "member": "0.png"})"
                                    "\n");
  const std::string questions = dir.write("q.jsonl", R"({"image_id": 1, "question": "what?", "answer": "a"})"
                                                     "\n"
                                                     R"({"image_id": 0, "question": "who?", "answer": "b"})"
                                                     "\n"
                                                     R"({"image_id": 0, "question": "why?", "answer": "a"})"
                                                     "\n");
  ReadOptions options{
      .path = questions, .columns = {{"text", "question"}, {"label", "answer"}}, .join_path = images, .join_key = "image_id"};
  options.join_where = {{"split", "train"}};
  const Dataset train = read_dataset(options);
  EXPECT_EQ(ids(train), (Ids{"q.jsonl:1", "q.jsonl:2", "q.jsonl:3"})) << "the joined row's id is not the example's";
  EXPECT_EQ(read_media(*train.examples[0].image), "train1");
  EXPECT_EQ(read_media(*train.examples[1].image), "train0");
  EXPECT_EQ(read_media(*train.examples[2].image), "train0");

  options.where = {{"image_id", ">=1"}};
  EXPECT_EQ(read_dataset(options).examples.size(), 1u);
  options.where = {{"split", "train"}, {"image_id", "<1"}};
  EXPECT_EQ(read_dataset(options).examples.size(), 2u) << "filters see the joined fields too";
  options.where = {{"image_id", "0"}};
  options.join_where = {{"split", "test"}};
  EXPECT_EQ(read_media(*read_dataset(options).examples[0].image), "test0");
}

TEST(Dataset, JoinOnKeysOfDifferentNames) {
  const TempDir dir;
  const std::string names = dir.write("n.csv", "code,text\n7,seven\n8,eight\n");
  const std::string path = dir.write("m.jsonl", "{\"ref\": 8, \"label\": 1}\n{\"ref\": \"7\", \"label\": 0, \"text\": \"own\"}\n");
  const Dataset dataset = read_dataset({.path = path, .join_path = names, .join_key = "ref", .join_other_key = "code"});
  EXPECT_EQ(*dataset.examples[0].text, "eight");
  EXPECT_EQ(*dataset.examples[1].text, "own");
}

TEST(Dataset, Where) {
  const TempDir dir;
  const std::string path = dir.write("m.jsonl",
                                     "{\"text\": \"a\", \"n\": 1, \"ok\": true}\n{\"text\": \"b\", \"n\": 2.0, \"ok\": false}\n"
                                     "{\"text\": \"c\", \"n\": 2.5}\n{\"text\": \"d\", \"n\": \"=x\"}\n{\"text\": \"e\", \"n\": null}\n");
  const auto texts = [&](std::map<std::string, std::string> where) {
    std::string found;
    for (const Example& example : read_dataset({.path = path, .where = std::move(where)}).examples) found += *example.text;
    return found;
  };
  EXPECT_EQ(texts({{"n", "1"}}), "a");
  EXPECT_EQ(texts({{"n", "2"}}), "b");
  EXPECT_EQ(texts({{"n", "!=1"}}), "bcd");
  EXPECT_EQ(texts({{"n", ">1"}}), "bc");
  EXPECT_EQ(texts({{"n", ">=2.5"}}), "c");
  EXPECT_EQ(texts({{"n", "<2"}}), "a");
  EXPECT_EQ(texts({{"n", "<=2"}}), "ab");
  EXPECT_EQ(texts({{"n", "==x"}}), "d");
  EXPECT_EQ(texts({{"n", "<9"}, {"ok", "false"}}), "b");
}

TEST(Dataset, LabelsOfEveryKind) {
  const TempDir dir;
  const auto labels = [&](const std::string& values, std::vector<std::string> classes = {}) {
    std::string rows;
    std::string_view rest = values;
    while (!rest.empty()) {
      const std::size_t end = std::min(rest.find(' '), rest.size());
      rows += "{\"text\": \"t\", \"label\": " + std::string(rest.substr(0, end)) + "}\n";
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    const Dataset dataset = read_dataset({.path = dir.write("m.jsonl", rows), .classes = std::move(classes)});
    std::string text;
    for (const Example& example : dataset.examples) text += std::to_string(example.labels.at(0));
    for (const std::string& name : dataset.classes) text += " " + name;
    return text;
  };
  EXPECT_EQ(labels("\"b\" \"a\" \"b\""), "101 a b");
  EXPECT_EQ(labels("10 9 -1 9.0"), "2101 -1 9 10");
  EXPECT_EQ(labels("true false"), "10 false true");
  EXPECT_EQ(labels("\"b\" \"a\"", {"b", "c", "a"}), "02 b c a");
  EXPECT_EQ(labels("0 2 \"1\" \"a\"", {"b", "c", "a"}), "0212 b c a");
  EXPECT_EQ(labels("true false", {"no", "yes"}), "10 no yes");
  EXPECT_EQ(labels("true false", {"true", "false"}), "01 true false");
  EXPECT_EQ(labels("3 1", {"3", "1"}), "01 3 1") << "in a list of numbers, numbers are names";
}

TEST(Dataset, MultiLabel) {
  const TempDir dir;
  const std::string path = dir.write("m.jsonl",
                                     "{\"text\": \"t\", \"labels\": [\"b\", \"a\", \"b\"]}\n{\"text\": \"t\", \"labels\": []}\n"
                                     "{\"text\": \"t\", \"label\": \"c\"}\n{\"text\": \"t\"}\n");
  const Dataset dataset = read_dataset({.path = path, .multi_label = true});
  EXPECT_TRUE(dataset.multi_label);
  EXPECT_EQ(dataset.classes, (Ids{"a", "b", "c"}));
  EXPECT_EQ(dataset.examples[0].labels, (Labels{0, 1}));
  EXPECT_EQ(dataset.examples[1].labels, Labels{});
  EXPECT_EQ(dataset.examples[2].labels, Labels{2});

  const std::string csv = dir.write("m.csv", "text,labels\nt,b|a\nu,c\n");
  EXPECT_EQ(read_dataset({.path = csv, .multi_label = true}).examples[0].labels, (Labels{0, 1}));
  const std::string other = dir.write("o.csv", "text,genres\nt,b; a\n");
  ReadOptions options{.path = other, .columns = {{"labels", "genres"}}, .multi_label = true, .label_separator = "; "};
  EXPECT_EQ(read_dataset(options).classes, (Ids{"a", "b"}));
}

TEST(Dataset, FewShotIsNestedAndStable) {
  const TempDir dir;
  std::string rows;
  for (int i = 0; i < 60; ++i) rows += "{\"id\": " + std::to_string(i) + ", \"text\": \"t\", \"label\": " + std::to_string(i % 3) + "}\n";
  ReadOptions options{.path = dir.write("m.jsonl", rows)};
  options.shot_seed = 5;
  options.shots = 2;
  const Ids two = ids(read_dataset(options));
  EXPECT_EQ(two, ids(read_dataset(options)));
  EXPECT_EQ(two.size(), 6u);
  std::map<int, int> of_class;
  for (const std::string& id : two) ++of_class[std::stoi(id) % 3];
  EXPECT_EQ(of_class, (std::map<int, int>{{0, 2}, {1, 2}, {2, 2}}));
  options.shots = 4;
  const Ids four = ids(read_dataset(options));
  for (const std::string& id : two) EXPECT_NE(std::find(four.begin(), four.end(), id), four.end());
  options.shot_seed = 6;
  EXPECT_NE(four, ids(read_dataset(options)));
  options.limit = 5;
  EXPECT_EQ(read_dataset(options).examples.size(), 5u);
}

TEST(Dataset, FingerprintFollowsWhatIsLearned) {
  const TempDir dir;
  dir.write("a.png", "12");
  const auto print = [&](const std::string& rows, ReadOptions options = {}) {
    options.path = dir.write("m.jsonl", rows);
    return read_dataset(options).fingerprint;
  };
  const std::string rows = "{\"id\": 1, \"text\": \"t\", \"image\": \"a.png\", \"label\": \"x\"}\n";
  const std::string base = print(rows);
  EXPECT_EQ(base.size(), 32u);
  EXPECT_EQ(base, print("\n{\"label\":\"x\",\"image\":\"a.png\",\"id\":1,\"text\":\"t\",\"note\":\"not learned\"}"));
  EXPECT_NE(base, print("{\"id\": 2, \"text\": \"t\", \"image\": \"a.png\", \"label\": \"x\"}\n"));
  EXPECT_NE(base, print("{\"id\": 1, \"text\": \"u\", \"image\": \"a.png\", \"label\": \"x\"}\n"));
  EXPECT_NE(base, print("{\"id\": 1, \"text_pair\": \"t\", \"image\": \"a.png\", \"label\": \"x\"}\n"));
  EXPECT_NE(base, print("{\"id\": 1, \"text\": \"t\", \"image_pair\": \"a.png\", \"label\": \"x\"}\n"));
  EXPECT_NE(base, print("{\"id\": 1, \"text\": \"t\", \"image\": \"a.png\", \"label\": \"y\"}\n"));
  EXPECT_NE(base, print(rows, {.classes = {"x", "y"}}));
  dir.write("a.png", "123");
  EXPECT_NE(base, print(rows)) << "a picture of another size is another picture";

  const TempDir elsewhere;
  elsewhere.write("a.png", "12");
  EXPECT_EQ(base, read_dataset({.path = elsewhere.write("n.jsonl", rows)}).fingerprint) << "moving a folder changes nothing";
}

TEST(Dataset, BadRowsMayBeSkipped) {
  const TempDir dir;
  dir.write("a.png", "1");
  const std::string path = dir.write("m.jsonl",
                                     "{\"text\": \"t\", \"label\": \"a\"}\n{\"text\": \" \", \"label\": \"a\"}\n"
                                     "{\"image\": \"no.png\", \"label\": \"a\"}\n{\"image\": \"a.png\", \"label\": \"z\"}\n");
  const Dataset dataset = read_dataset({.path = path, .classes = {"a"}, .skip_bad = true});
  EXPECT_EQ(dataset.examples.size(), 1u);
  EXPECT_EQ(dataset.skipped, 3);
  EXPECT_EQ(dataset.first_skipped, path + ":2: field 'text': the text is empty (leave the field out, or null, where there is no text)");
}

TEST(Dataset, ClassNamesFromAFile) {
  const TempDir dir;
  EXPECT_EQ(read_class_names(dir.write("c.txt",
                                       "\xef\xbb\xbf"
                                       "T-shirt/top \r\n bag\n\n")),
            (Ids{"T-shirt/top", " bag"}));
  expect_contains(message_of([&] { read_class_names(dir.write("d.txt", "a\nb\na\n")); }),
                  "d.txt:3: the class 'a' is there twice (first in line 1)");
  expect_contains(message_of([&] { read_class_names(dir.write("e.txt", "a\n\nb\n")); }), "e.txt:2: an empty line");
  expect_contains(message_of([&] { read_class_names(dir.write("f.txt", "\n")); }), "f.txt: has no class names");
  expect_contains(message_of([&] { read_class_names(dir.write("g.txt", "a\n\xff\n")); }), "g.txt:2: the class name is not valid UTF-8");
  expect_contains(message_of([&] { read_class_names(dir.path() / "none.txt"); }), "none.txt");
}

}  // namespace
}  // namespace mmtune::data::test
