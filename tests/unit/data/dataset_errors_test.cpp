// Every mistake in a data file or in how it is read gets one line that names file, line and field.
#include "data/dataset.h"
#include "unit/data/data_test_support.h"

namespace mmtune::data::test {
namespace {

class DatasetErrors : public testing::Test {
 protected:
  std::string read(const std::string& rows, ReadOptions options = {}, const std::string& name = "m.jsonl") {
    options.path = dir_.write(name, rows);
    return message_of([&] { read_dataset(options); });
  }
  /// The message for one row, without the folder's name in front.
  std::string row(const std::string& fields, const ReadOptions& options = {}) {
    const std::string message = read("{" + fields + "}\n", options);
    const std::string folder = dir_.path().string() + "/";
    return message.starts_with(folder) ? message.substr(folder.size()) : message;
  }
  TempDir dir_;
};

TEST_F(DatasetErrors, Files) {
  const auto open = [](const std::string& path) { return message_of([&] { read_dataset({.path = path}); }); };
  expect_contains(open((dir_.path() / "none.jsonl").string()), "none.jsonl: does not exist");
  expect_contains(open(dir_.write("m.txt", "")), "m.txt: cannot tell the format of the data: expected *.jsonl");
  expect_contains(open(dir_.write("manifest", "")), "got a name without an ending");
  expect_contains(open("/dev/null"), "is neither a file nor a folder");
  expect_contains(open(dir_.write("m.jsonl", "")), "m.jsonl: the split is empty: the file has no rows");
  expect_contains(open(dir_.write("m.jsonl", "{\"text\": \"a\"}\n{\"text\": \n")), "m.jsonl:2: ");
  expect_contains(open(dir_.write("m.jsonl", "{\"text\": \"a\", \"text\": \"b\"}\n")), "m.jsonl:1: ");
  expect_contains(open(dir_.write("m.jsonl", "{\"text\": \"\xff\"}\n")), "m.jsonl:1: ");
  expect_contains(open(dir_.write("m.jsonl", "[1]\n")), "m.jsonl:1: a row must be an object");
  expect_contains(open(dir_.write("m.jsonl", std::string((16 << 20) + 1, ' '))), "m.jsonl:1: the line is longer than 16 MiB");
  expect_contains(open(dir_.write("m.json", "{\"text\": \"a\"}")),
                  "m.json: a *.json data file must be a list of objects, or an object of them: got object");
  expect_contains(open(dir_.write("m.json", "[{\"text\": \"a\"}, 3]")), "m.json: item 2: a row must be an object");
  expect_contains(open(dir_.write("m.json", "[{\"text\": \"a\"}, {\"text\": 3}]")), "m.json: item 2: field 'text': wrong type");
  expect_contains(open(dir_.write("m.csv", "")), "m.csv: the file is empty: expected a header line");
  expect_contains(open(dir_.write("m.csv", "text,label\n")), "the split is empty: the file has no rows");
  expect_contains(open(dir_.write("m.csv", "text,text\n")), "m.csv:1: the column 'text' is there twice");
  expect_contains(open(dir_.write("m.csv", "text,label\na,b\na,b,c\n")),
                  "m.csv:3: wrong number of fields: expected 2 as in the header, got 3 (fields with commas need quotes)");
}

TEST_F(DatasetErrors, Folders) {
  const auto open = [&](const std::string& name) { return message_of([&] { read_dataset({.path = (dir_.path() / name).string()}); }); };
  std::filesystem::create_directories(dir_.path() / "empty/cat");
  expect_contains(open("empty"), "empty: the split is empty: the file has no rows");
  dir_.write("mixed/cat/1.png", "");
  dir_.write("mixed/loose.png", "");
  expect_contains(open("mixed"), "loose.png: a picture beside folders of pictures has no class (move it");
  dir_.write("old/cat/1.gif", "");
  expect_contains(open("old"), "1.gif: a picture in a format that cannot be read: expected JPEG, PNG or WebP, got gif");
}

TEST_F(DatasetErrors, Fields) {
  EXPECT_EQ(row(R"("text": 3)"), "m.jsonl:1: field 'text': wrong type: expected text, or null for none, got number");
  EXPECT_EQ(row(R"("text": ["a"])"), "m.jsonl:1: field 'text': wrong type: expected text, or null for none, got array");
  expect_contains(row(R"("text": " \n")"), "m.jsonl:1: field 'text': the text is empty");
  expect_contains(row(R"("image": 3)"), "m.jsonl:1: field 'image': wrong type: expected a path");
  expect_contains(row(R"("image": "")"), "m.jsonl:1: field 'image': the path is empty");
  expect_contains(row(R"("image": "http://x/y.png")"), "m.jsonl:1: field 'image': a path of a local file is needed");
  expect_contains(row(R"("image": "no.png")"), "m.jsonl:1: field 'image': " + (dir_.path() / "no.png").string() + ": does not exist");
  expect_contains(row(R"("image": ".")"), "is a folder");
  expect_contains(row(R"("text": "a", "id": null, "audio": "no.wav")"), "field 'audio'");
  expect_contains(row(R"("text": "a", "id": [])"), "m.jsonl:1: field 'id': wrong type: expected text or an integer, got array");
  expect_contains(row(R"("text": "a", "id": "")"), "m.jsonl:1: field 'id': ");
  expect_contains(row(R"("text": "a", "answers": [[]])"), "m.jsonl:1: field 'answers': wrong type");
  EXPECT_EQ(
      row(R"("question": "a", "answer": "b")"),
      "m.jsonl:1: the row has neither text nor image nor audio nor video: got the fields answer, question (say which field is what with "
      "data.columns)");
}

TEST_F(DatasetErrors, Shards) {
  dir_.write("s.tar", tar_entry({"a.png", "A"}) + tar_end());
  dir_.write("broken.tar", "nothing");
  expect_contains(row(R"("shard": 1, "offset": 0, "size": 1)"), "m.jsonl:1: field 'shard': expected a path");
  expect_contains(row(R"("shard": "s.tar")"), "field 'shard': stands without offset and size, or member");
  expect_contains(row(R"("shard": "s.tar", "offset": 1)"), "field 'size': is missing beside the other");
  expect_contains(row(R"("shard": "s.tar", "size": 1)"), "field 'offset': is missing");
  expect_contains(row(R"("shard": "s.tar", "offset": -1, "size": 1)"), "field 'offset': expected a number of bytes, got '-1'");
  expect_contains(row(R"("shard": "s.tar", "offset": 1, "size": 1e300)"), "field 'size': expected a number of bytes");
  expect_contains(row(R"("shard": "s.tar", "offset": 1, "size": 99999999999999999999)"), "field 'size'");
  expect_contains(row(R"("shard": "s.tar", "offset": 1, "size": 0)"), "field 'size': the range is empty");
  expect_contains(row(R"("shard": "s.tar", "offset": 4000, "size": 1)"), "the range goes past the end of the file");
  expect_contains(row(R"("shard": "s.tar", "member": "b.png")"), "has no member 'b.png'");
  expect_contains(row(R"("shard": "s.tar", "member": "../a.png")"), "field 'member': the name has a '..' in it");
  expect_contains(row(R"("shard": "s.tar", "member": 3)"), "field 'member': expected a name");
  expect_contains(row(R"("shard": "s.tar#a.png", "member": "a.png")"), "expected a path without '#'");
  expect_contains(row(R"("shard": "broken.tar", "member": "a.png")"), "broken.tar: is no tar archive");
  expect_contains(row(R"("image": "no.tar#a.png")"), "no.tar: does not exist");
}

TEST_F(DatasetErrors, Labels) {
  expect_contains(row(R"("text": "a", "label": ["x"])"),
                  "m.jsonl:1: field 'label': wrong type: expected one label, got a list (set multi_label");
  expect_contains(row(R"("text": "a", "label": {})"), "m.jsonl:1: field 'label': wrong type: expected a name, an integer or a boolean");
  expect_contains(row(R"("text": "a", "label": 1.5)"), "got 1.5");
  expect_contains(row(R"("text": "a", "label": "")"), "the label is empty");
  expect_contains(row(R"("text": "a", "label": 1, "labels": [1])"), "the row has a label and labels");
  expect_contains(row(R"("text": "a", "label": "x")", {.classes = {"a", "b"}}),
                  "m.jsonl:1: the label is not in the list: expected one of 2 classes (a, b), got 'x'");
  expect_contains(row(R"("text": "a", "label": 2)", {.classes = {"a", "b"}}), "got '2'");
  expect_contains(row(R"("text": "a", "label": -1)", {.classes = {"a", "b"}}), "got '-1'");
  expect_contains(row(R"("text": "a", "label": 0)", {.classes = {"1", "2"}}), "got '0'");
  expect_contains(row(R"("text": "a", "label": true)", {.classes = {"a"}}), "got 'true'");
  expect_contains(row(R"("text": "a", "gold": 1)", {.columns = {{"label", "glod"}}, .require_labels = true}),
                  "m.jsonl:1: the row has no label: expected the field 'glod', got the fields gold, text");
  EXPECT_EQ(row(R"("text": "a")", {.columns = {{"label", "glod"}}}), "no error");
  expect_contains(row(R"("text": "a")", {.classes = {"a", "a"}}), "classes: the class 'a' is there twice");
  expect_contains(row(R"("text": "a")", {.classes = {""}}), "classes: class 0 has an empty name");
}

TEST_F(DatasetErrors, Options) {
  expect_contains(row(R"("text": "a")", {.columns = {{"picture", "image"}}}),
                  "columns.picture: no field of an example: expected one of id, text");
  expect_contains(row(R"("text": "a")", {.columns = {{"text", ""}}}), "columns.text: the column's name is empty");
  expect_contains(row(R"("text": "a")", {.columns = {{"label", "x"}, {"labels", "y"}}}), "not for both");
  expect_contains(row(R"("text": "a", "picture": "p")", {.columns = {{"image", "pictrue"}}}),
                  "no row has the field 'pictrue' that columns.image names (the first row has picture, text)");
  EXPECT_EQ(row(R"("text": "a")", {.columns = {{"image", "picture"}}, .columns_must_exist = false}), "no error");
  EXPECT_EQ(row(R"("text": "a", "picture": null)", {.columns = {{"image", "picture"}}}), "no error");
  expect_contains(row(R"("text": "a")", {.where = {{"n", "<x"}}}), "where.n: a comparison needs a number: got '<x' (to ask");
  expect_contains(row(R"("text": "a", "split": "val")", {.where = {{"split", "valid"}}}),
                  "m.jsonl: the split is empty: none of 1 rows has split = 'valid' (found: val)");
  expect_contains(row(R"("text": "a")", {.where = {{"spilt", "x"}}}), "spilt = 'x' (no row has this field)");
  expect_contains(row(R"("text": "", "split": 1)", {.skip_bad = true}), "the split is empty: all 1 rows were bad, the first: ");
  expect_contains(row(R"("text": "a", "label": 1)", {.shots = 2}),
                  "too few examples of the class '1' for the few-shot subset: expected 2, got 1");
  expect_contains(row(R"("text": "a")", {.shots = 1}), "the row has no label");
  expect_contains(row(R"("text": "a", "label": 1)", {.multi_label = true, .shots = 2}), "shots: few-shot subsets need one label");
  expect_contains(row(R"("text": "a")", {.shots = -1}), "shots: must not be negative");
  expect_contains(row(R"("text": "a")", {.limit = -1}), "limit: must not be negative");
  EXPECT_THROW(read_dataset({.path = dir_.write("m.jsonl", "{\"text\": \"a\"}\n"), .limit = -1}), UsageError);
}

TEST_F(DatasetErrors, Joins) {
  const std::string other =
      dir_.write("o.jsonl", "{\"k\": 1, \"split\": \"a\"}\n{\"k\": 2, \"split\": \"a\"}\n{\"k\": 1, \"split\": \"b\"}\n");
  const auto joined = [&](const std::string& fields, std::map<std::string, std::string> where) {
    ReadOptions options;
    options.join_path = other;
    options.join_key = "k";
    options.join_where = std::move(where);
    return row(fields, options);
  };
  expect_contains(joined(R"("text": "a", "k": 1)", {}),
                  "o.jsonl:3: a second row with k '1' (the first is " + other + ":1; choose between them");
  expect_contains(joined(R"("text": "a", "k": 3)", {{"split", "a"}}), "m.jsonl:1: no row of " + other + " has the join key k '3'");
  expect_contains(joined(R"("text": "a")", {{"split", "a"}}), "m.jsonl:1: the row lacks the join key 'k': expected text or an integer");
  expect_contains(joined(R"("text": "a", "k": [])", {{"split", "a"}}), "got array");
  expect_contains(joined(R"("text": "a", "k": 1)", {{"split", "c"}}), "o.jsonl: no rows to join: got none with split = 'c' (found: a, b)");
  expect_contains(row(R"("text": "a")", {.join_path = other}), "join_key: a join needs the name of its key");
  expect_contains(row(R"("text": "a")", {.join_path = other + "x", .join_key = "k"}), "o.jsonlx: does not exist");
  expect_contains(row(R"("text": "a", "k": 1)", {.join_path = other, .join_key = "k", .join_other_key = "z"}),
                  "o.jsonl:1: the row lacks the join key 'z'");
}

}  // namespace
}  // namespace mmtune::data::test
