// Published data sets whose pictures are no files of their own, on small made-up files.
#include "data/picture_tables.h"

#include "data/dataset.h"
#include "data/npy.h"
#include "unit/data/data_test_support.h"
#include "unit/vision/pictures.h"

namespace mmtune::data::test {
namespace {

using mmtune::test::as_png;

std::string base64(std::string_view bytes) {
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t bits = 0;
    const std::size_t count = std::min<std::size_t>(3, bytes.size() - i);
    for (std::size_t k = 0; k < 3; ++k) bits = bits << 8 | (k < count ? static_cast<unsigned char>(bytes[i + k]) : 0);
    for (std::size_t k = 0; k < 4; ++k) text += k <= count ? kAlphabet[bits >> (18 - 6 * k) & 63] : '=';
  }
  return text;
}

vision::Image small() {
  return mmtune::test::noise(5, 4);
}

std::string picture() {
  return base64(as_png(small()));
}

TEST(PictureTables, Grounding) {
  const TempDir dir;
  const std::string path = dir.write("refcoco_val.tsv", "79_1\t237367\tA \"woman\" in white\t230.79,121.75,423.66,463.06\t" + picture() +
                                                            "\n79_2\t237367\tthe dog\t1,2,3,4\t" + picture() + "\r\n");
  const Dataset dataset = read_dataset({.path = path, .columns = {{"answers", "region"}}});
  ASSERT_EQ(dataset.examples.size(), 2u);
  EXPECT_EQ(dataset.examples[0].id, "79_1");
  EXPECT_EQ(*dataset.examples[0].text, "A \"woman\" in white");
  EXPECT_EQ(dataset.examples[0].answers, (std::vector<std::string>{"230.79,121.75,423.66,463.06"}));
  for (const Example& example : dataset.examples) EXPECT_EQ(read_picture(*example.image).pixels, small().pixels);
}

TEST(PictureTables, Captions) {
  const TempDir dir;
  const std::string path =
      dir.write("caption.tsv", "1\t12\tthe sun sets&&it is evening\tsky&&water\t" + picture() + "\n2\t13\ta dog\t\t" + picture() + "\n");
  const Dataset dataset = read_dataset({.path = path, .columns = {{"text_pair", "objects"}}});
  ASSERT_EQ(dataset.examples.size(), 2u);
  EXPECT_EQ(*dataset.examples[0].text, "the sun sets");
  EXPECT_EQ(dataset.examples[0].answers, (std::vector<std::string>{"the sun sets", "it is evening"}));
  EXPECT_EQ(*dataset.examples[0].text_pair, "sky water");
  EXPECT_FALSE(dataset.examples[1].text_pair);
}

TEST(PictureTables, QuestionsAndEntailment) {
  const TempDir dir;
  const std::string questions = dir.write("vqa.tsv", "7\t7\tis it red?\t0.6|!+no&&1.0|!+yes\thouse&&sky\t" + picture() + "\n");
  const Dataset asked = read_dataset({.path = questions, .columns = {{"label", "answer"}}});
  EXPECT_EQ(asked.classes, (std::vector<std::string>{"yes"}));
  const std::string entailment = dir.write("snli_ve.tsv", "a#1\t25\t" + picture() + "\ta man eats\ta man in pink\tneutral\n");
  const Dataset judged = read_dataset({.path = entailment, .columns = {{"text_pair", "caption"}}});
  EXPECT_EQ(*judged.examples[0].text, "a man eats");
  EXPECT_EQ(*judged.examples[0].text_pair, "a man in pink");
  EXPECT_EQ(judged.classes, (std::vector<std::string>{"neutral"}));
  const std::string names = dir.write("names.tsv", "1\t" + picture() + "\tpizza\n");
  EXPECT_EQ(read_dataset({.path = names}).classes, (std::vector<std::string>{"pizza"}));
}

TEST(PictureTables, WhatIsWrong) {
  const TempDir dir;
  const auto read = [&](const std::string& text) { return message_of([&] { read_dataset({.path = dir.write("x.tsv", text)}); }); };
  expect_contains(read("1\t2\t" + picture() + "\t4\n"), "4 columns");
  expect_contains(read("1\t2\ta\t1,2,3\t" + picture() + "\n"), "not four numbers");
  expect_contains(read("1\t2\ta\tyes\tb\t" + picture() + "\n"), "CONFIDENCE|!+TEXT");
  expect_contains(read("1\t2\ta\xFF\t1,2,3,4\t" + picture() + "\n"), "column 3 is not UTF-8");
  expect_contains(read("1\t2\ta\t1,2,3,4\t" + picture() + "\n1\t2\ta\n"), "x.tsv:2");
  const std::string cut = picture();
  const Dataset damaged = read_dataset({.path = dir.write("y.tsv", "1\t2\ta\t1,2,3,4\t" + cut.substr(0, cut.size() - 3) + "\n")});
  expect_contains(message_of([&] { read_picture(*damaged.examples[0].image); }), "base64");
}

TEST(Glue, TablesWithAndWithoutAHeader) {
  const TempDir dir;
  const std::string cola = dir.write("cola.tsv", "gj04\t1\t\tOur friends won't buy this.\ngj04\t0\t*\tThey drank the pub.\n");
  const Dataset judged = read_dataset({.path = cola, .columns = {{"text", "sentence"}}, .quotes = false});
  ASSERT_EQ(judged.examples.size(), 2u);
  EXPECT_EQ(judged.classes, (std::vector<std::string>{"0", "1"}));
  const std::string mrpc = dir.write("mrpc.tsv", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\tHe said \"no.\tNo, he said.\n");
  const Dataset pairs =
      read_dataset({.path = mrpc, .columns = {{"label", "Quality"}, {"text", "#1 String"}, {"text_pair", "#2 String"}}, .quotes = false});
  EXPECT_EQ(*pairs.examples[0].text, "He said \"no.");
  EXPECT_EQ(*pairs.examples[0].text_pair, "No, he said.");
}

std::string record(const std::string& labels, unsigned char first) {
  std::string pixels(3072, '\0');
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<char>(first + i / 1024);
  return labels + pixels;
}

TEST(Cifar, FilesAndFolders) {
  const TempDir dir;
  const std::string train = dir.write("c10/data_batch_1.bin", record("\x03", 10) + record("\x09", 20));
  dir.write("c10/test_batch.bin", record(std::string(1, '\0'), 30));
  EXPECT_EQ(read_dataset({.path = train}).classes, (std::vector<std::string>{"3", "9"}));
  dir.write("c10/batches.meta.txt", "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n");
  const Dataset named = read_dataset({.path = train});
  EXPECT_EQ(named.classes, (std::vector<std::string>{"cat", "truck"}));
  const vision::Image image = read_picture(*named.examples[1].image);
  EXPECT_EQ(image.width, 32);
  EXPECT_EQ(image.pixels[0], 20);
  EXPECT_EQ(image.pixels[3071], 22);
  const Dataset test = read_dataset({.path = (dir.path() / "c10").string(), .where = {{"split", "test"}}});
  ASSERT_EQ(test.examples.size(), 1u);
  EXPECT_EQ(test.classes, (std::vector<std::string>{"airplane"}));
  const std::string hundred = dir.write("c100/train.bin", record("\x02\x21", 1));
  const Dataset fine = read_dataset({.path = hundred});
  EXPECT_EQ(fine.classes, (std::vector<std::string>{"33"}));
  EXPECT_EQ(read_dataset({.path = hundred, .columns = {{"label", "coarse_label"}}}).classes, (std::vector<std::string>{"2"}));
}

TEST(Cifar, WhatIsWrong) {
  const TempDir dir;
  const auto read = [&](const std::string& bytes) { return message_of([&] { read_dataset({.path = dir.write("x.bin", bytes)}); }); };
  expect_contains(read("abc"), "3073");
  expect_contains(read(""), "3073");
  expect_contains(read(record("\x0A", 0)), "record 0");
  expect_contains(read(record("\x0A", 0)), "0 to 9");
}

std::string array(const std::string& type, const std::string& shape, const std::string& values) {
  std::string header = "{'descr': '" + type + "', 'fortran_order': False, 'shape': (" + shape + "), }";
  header.resize(117, ' ');
  header += '\n';
  return std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(header.size()) + '\0' + header + values;
}

TEST(CorruptedArrays, SeveritiesLieOneAfterAnother) {
  const TempDir dir;
  std::string pixels;
  for (int i = 0; i < 10; ++i) pixels += std::string(2 * 3 * 3, static_cast<char>(i));
  const std::string path = dir.write("set/gaussian_noise.npy", array("|u1", "10, 2, 3, 3", pixels));
  std::string labels;
  for (int i = 0; i < 10; ++i) labels += std::string(1, static_cast<char>(i % 2)) + std::string(7, '\0');
  dir.write("set/labels.npy", array("<i8", "10,", labels));
  dir.write("set/fog.npy", array("|u1", "10, 2, 3, 3", pixels));
  const Dataset three = read_dataset({.path = path, .where = {{"severity", "3"}}, .classes = {"cat", "dog"}});
  ASSERT_EQ(three.examples.size(), 2u);
  EXPECT_EQ(three.examples[1].labels, (std::vector<std::int64_t>{1}));
  const vision::Image image = read_picture(*three.examples[1].image);
  EXPECT_EQ(image.width, 3);
  EXPECT_EQ(image.height, 2);
  EXPECT_EQ(image.pixels[0], 5);
  EXPECT_EQ(read_dataset({.path = (dir.path() / "set").string(), .where = {{"corruption", "fog"}, {"severity", "5"}}}).examples.size(), 2u);
}

TEST(CorruptedArrays, WhatIsWrong) {
  const TempDir dir;
  dir.write("labels.npy", array("<i8", "1,", std::string(8, '\0')));
  const auto read = [&](const std::string& bytes) { return message_of([&] { read_dataset({.path = dir.write("x.npy", bytes)}); }); };
  expect_contains(read("abc"), "not a NumPy array");
  expect_contains(read(array("|u1", "1, 1, 1, 3", "ab")), "another size than its shape");
  expect_contains(read(array("|u1", "3,", "abc")), "holds no pictures");
  expect_contains(read(array("|O", "1, 1, 1, 3", "abc")), "'|O'");
  expect_contains(read(array(">u2", "1, 1, 1, 3", "abcdef")), "'>u2'");
  expect_contains(read(array("|u1", "18446744073709551615, 18446744073709551615, 2, 3", "abc")), "too large");
  expect_contains(read(array("|u1", "1, 1, 1, 3", "abc")), "do not go together");
  expect_contains(read(array("|u1", "1, 1, 1, 3", "abc").replace(20, 5, "xxxxx")), "damaged");
}

TEST(ClevrAndOthers, AsPublished) {
  const TempDir dir;
  dir.write("CLEVR_v1.0/images/val/CLEVR_val_000000.png", "picture");
  const std::string scenes = dir.write(
      "CLEVR_v1.0/scenes/CLEVR_val_scenes.json",
      R"({"info": {"split": "val"}, "scenes": [{"image_index": 0, "image_filename": "CLEVR_val_000000.png", "split": "val", "objects": [{}, {}, {}]}]})");
  const Dataset counted = read_dataset({.path = scenes, .columns = {{"label", "count"}}});
  EXPECT_EQ(counted.classes, (std::vector<std::string>{"3"}));
  EXPECT_EQ(read_media(*counted.examples[0].image), "picture");
  const std::string questions = dir.write(
      "CLEVR_v1.0/questions/CLEVR_val_questions.json",
      R"({"questions": [{"question_index": 0, "image_filename": "CLEVR_val_000000.png", "split": "val", "question": "How many?", "answer": "3", "program": []}]})");
  const Dataset asked = read_dataset({.path = questions, .columns = {{"text", "question"}, {"label", "answer"}}});
  EXPECT_EQ(read_media(*asked.examples[0].image), "picture");
  expect_contains(message_of([&] { read_dataset({.path = dir.write("x.json", R"({"scenes": [{"objects": 3}]})")}); }), "scenes 1");

  dir.write("val2014/COCO_val2014_000000000001.jpg", "coco");
  const std::string pope = dir.write(
      "coco_pope_random.json",
      "{\"question_id\": 1, \"image\": \"COCO_val2014_000000000001.jpg\", \"text\": \"Is there a dog in the image?\", \"label\": \"yes\"}\n"
      "{\"question_id\": 2, \"image\": \"COCO_val2014_000000000001.jpg\", \"text\": \"Is there a cat in the imange?\", \"label\": "
      "\"no\"}\n");
  const Dataset polled = read_dataset({.path = pope, .columns = {{"id", "question_id"}, {"image", "val2014/{image}"}}});
  EXPECT_EQ(polled.classes, (std::vector<std::string>{"no", "yes"}));
  EXPECT_EQ(*polled.examples[1].text, "Is there a cat in the imange?");

  dir.write("img/42953.png", "meme");
  const std::string memes = dir.write("dev.jsonl", R"({"id": 42953, "img": "img/42953.png", "label": 0, "text": "its their character"})");
  const Dataset hateful =
      read_dataset({.path = memes,
                    .columns = {{"image", "img"}, {"text", "This is an image with: \"{text}\" written on it. Is it hateful?"}},
                    .classes = {"no", "yes"}});
  EXPECT_EQ(*hateful.examples[0].text, "This is an image with: \"its their character\" written on it. Is it hateful?");
  EXPECT_EQ(hateful.examples[0].labels, (std::vector<std::int64_t>{0}));

  dir.write("imagenette/train/n01440764/a.jpg", "fish");
  dir.write("imagenette/val/n02102040/b.jpg", "dog");
  const Dataset nette = read_dataset({.path = (dir.path() / "imagenette").string(), .columns = {{"label", "class_name"}}});
  EXPECT_EQ(nette.classes, (std::vector<std::string>{"English springer", "tench"}));
}

TEST(CorruptedData, GoesByTheExamplesId) {
  const TempDir dir;
  dir.write("a.png", as_png(small()));
  const std::string path = dir.write("x.jsonl", "{\"id\": \"1\", \"image\": \"a.png\"}\n{\"id\": \"2\", \"image\": \"a.png\"}\n");
  const Dataset plain = read_dataset({.path = path});
  const ReadOptions noisy{.path = path, .corruption = vision::parse_corruption("gaussian_noise:2", "test")};
  const Dataset worse = read_dataset(noisy);
  EXPECT_NE(plain.fingerprint, worse.fingerprint);
  const auto pixels = [](const Dataset& dataset, std::size_t i) { return read_picture(*dataset.examples[i].image).pixels; };
  EXPECT_EQ(pixels(plain, 0), small().pixels);
  EXPECT_NE(pixels(worse, 0), pixels(plain, 0));
  EXPECT_NE(pixels(worse, 0), pixels(worse, 1));
  EXPECT_EQ(pixels(worse, 1), pixels(read_dataset(noisy), 1));
  EXPECT_NE(worse.examples[0].image->variant(), worse.examples[1].image->variant());
  EXPECT_EQ(plain.examples[0].image->variant(), "");
}

TEST(RawPictures, InAManifest) {
  const TempDir dir;
  dir.write("raw.bin", "ab\x01\x02\x03\x04\x05\x06");
  const auto read = [&](const std::string& more) {
    return dir.write("x.jsonl", R"({"shard": "raw.bin", "offset": 2, "size": 6, "encoding": )" + more + "}");
  };
  const Dataset dataset = read_dataset({.path = read(R"("planar_rgb", "width": 2, "height": 1)")});
  EXPECT_EQ(read_picture(*dataset.examples[0].image).pixels, (std::vector<std::uint8_t>{1, 3, 5, 2, 4, 6}));
  const auto refused = [&](const std::string& more) { return message_of([&] { read_dataset({.path = read(more)}); }); };
  expect_contains(refused(R"("packed_rgb", "width": 2, "height": 2)"), "12 bytes of raw pixels");
  expect_contains(refused(R"("packed_rgb", "width": -2, "height": 2)"), "'width'");
  expect_contains(refused(R"("bgr")"), "'bgr'");
}

}  // namespace
}  // namespace mmtune::data::test
