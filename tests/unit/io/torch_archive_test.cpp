#include "io/torch_archive.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/error.h"
#include "io/pickle_values.h"
#include "io/stored_zip.h"

namespace mmtune::io {
namespace {

using Files = std::vector<std::pair<std::string, std::string>>;

std::string number(std::uint64_t value, std::size_t width) {
  std::string bytes;
  for (std::size_t i = 0; i < width; ++i) bytes.push_back(static_cast<char>(value >> 8 * i & 0xff));
  return bytes;
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// A zip archive as torch.save makes one; `method` 8 claims that members are compressed.
std::string zip_of(const Files& files, std::uint64_t method = 0, std::uint64_t flags = 0) {
  std::string out, directory;
  for (const auto& [name, data] : files) {
    const std::string common = number(20, 2) + number(flags, 2) + number(method, 2) + number(0, 4) + number(crc32_of(bytes_of(data)), 4) +
                               number(data.size(), 4) + number(data.size(), 4) + number(name.size(), 2) + number(0, 2);
    directory +=
        "PK\x01\x02" + number(20, 2) + common + number(0, 2) + number(0, 2) + number(0, 2) + number(0, 4) + number(out.size(), 4) + name;
    out += "PK\x03\x04" + common + name + data;
  }
  const std::size_t begin = out.size();
  out += directory + "PK\x05\x06" + number(0, 4) + number(files.size(), 2) + number(files.size(), 2) + number(directory.size(), 4) +
         number(begin, 4) + number(0, 2);
  return out;
}

std::string text(const std::string& content) {
  return "X" + number(content.size(), 4) + content;
}
std::string numbers(const std::vector<int>& values) {
  std::string made = "(";
  for (const int value : values) made += "J" + number(static_cast<std::uint32_t>(value), 4);
  return made + "t";
}
std::string storage(const std::string& key, int elements, const std::string& kind = "torch\nFloatStorage\n") {
  return "(" + text("storage") + "c" + kind + text(key) + text("cpu") + "J" + number(static_cast<std::uint32_t>(elements), 4) + "tQ";
}
std::string tensor(const std::string& stored, int first, const std::vector<int>& shape, const std::vector<int>& strides) {
  return "ctorch._utils\n_rebuild_tensor_v2\n(" + stored + "J" + number(static_cast<std::uint32_t>(first), 4) + numbers(shape) +
         numbers(strides) + "\x89" + "ccollections\nOrderedDict\n)RtR";
}
/// {"state_dict": {name: value}, "hyper_parameters": extra}
std::string pickle_of(const std::string& name, const std::string& value, const std::string& extra = "}") {
  return "\x80\x02}(" + text("state_dict") + "}" + text(name) + value + "s" + text("hyper_parameters") + extra + "u.";
}
std::string archive_of(const std::string& pickle, const std::vector<float>& values = {0, 1, 2, 3, 4, 5}) {
  std::string data(values.size() * 4, '\0');
  std::memcpy(data.data(), values.data(), data.size());
  return zip_of({{"archive/data.pkl", pickle}, {"archive/byteorder", "little"}, {"archive/data/0", data}});
}

std::vector<float> floats(const TensorEntry& entry) {
  std::vector<float> values(entry.data.size() / 4);
  if (!values.empty()) std::memcpy(values.data(), entry.data.data(), entry.data.size());
  return values;
}

std::string refusal(const std::string& archive) {
  try {
    TorchArchive::from_bytes(bytes_of(archive), "some.ckpt");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(TorchArchive, ReadsTensorsWhereTheyLie) {
  const std::string archive = archive_of(pickle_of("a.weight", tensor(storage("0", 6), 1, {2, 2}, {2, 1})));
  const TorchArchive opened = TorchArchive::from_bytes(bytes_of(archive), "some.ckpt");
  ASSERT_EQ(opened.tensors().size(), 1U);
  const TensorEntry* const found = opened.find("a.weight");
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->shape, (std::vector<std::int64_t>{2, 2}));
  EXPECT_EQ(floats(*found), (std::vector<float>{1, 2, 3, 4}));
  EXPECT_GE(reinterpret_cast<const char*>(found->data.data()), archive.data());
  EXPECT_LT(reinterpret_cast<const char*>(found->data.data()), archive.data() + archive.size());
}

TEST(TorchArchive, GathersTensorsThatDoNotLieInOrder) {
  const auto values = [](const std::string& described) {
    const std::string archive = archive_of(pickle_of("w", described));
    return floats(TorchArchive::from_bytes(bytes_of(archive), "some.ckpt").tensors().front());
  };
  EXPECT_EQ(values(tensor(storage("0", 6), 0, {3, 2}, {1, 3})), (std::vector<float>{0, 3, 1, 4, 2, 5}));
  EXPECT_EQ(values(tensor(storage("0", 6), 2, {2, 3}, {1, 0})), (std::vector<float>{2, 2, 2, 3, 3, 3}));
  EXPECT_EQ(values(tensor(storage("0", 6), 5, {}, {})), (std::vector<float>{5}));
  EXPECT_TRUE(values(tensor(storage("0", 6), 0, {0, 4}, {4, 1})).empty());
}

TEST(TorchArchive, NothingButTensorsIsTakenForOne) {
  const std::string call = "cposix\nsystem\n(" + text("true") + "tR";
  const std::string message = refusal(archive_of(pickle_of("a.weight", call)));
  EXPECT_NE(message.find("a.weight"), std::string::npos) << message;
  EXPECT_NE(message.find("posix.system"), std::string::npos) << message;
  // Elsewhere it is a name, of which nothing comes.
  const std::string archive = archive_of(
      pickle_of("w", tensor(storage("0", 6), 0, {6}, {1}), "}" + text("num_heads") + "K\x0csq\x01" + text("odd") + call + "}bs"));
  const TorchArchive opened = TorchArchive::from_bytes(bytes_of(archive), "some.ckpt");
  EXPECT_EQ(opened.hyper_parameter("num_heads"), 12);
  EXPECT_FALSE(opened.hyper_parameter("odd").has_value());
  EXPECT_FALSE(opened.hyper_parameter("nothing").has_value());
}

TEST(TorchArchive, TensorsBeyondTheirStorageAreRefused) {
  const auto message = [](const std::string& described) { return refusal(archive_of(pickle_of("w", described))); };
  EXPECT_NE(message(tensor(storage("0", 6), 1, {6}, {1})).find("beyond its storage"), std::string::npos);
  EXPECT_NE(message(tensor(storage("0", 6), 0, {2, 2}, {5, 2})).find("beyond its storage"), std::string::npos);
  EXPECT_NE(message(tensor(storage("0", 6), 0, {2147483647, 2147483647, 2147483647}, {0, 0, 0})).find("beyond its storage"),
            std::string::npos);
  EXPECT_NE(message(tensor(storage("0", 6), 0, {100000}, {0})).find("larger than the file"), std::string::npos);
  EXPECT_NE(message(tensor(storage("0", 7), 0, {6}, {1})).find("another size"), std::string::npos);
  EXPECT_NE(message(tensor(storage("1", 6), 0, {6}, {1})).find("missing"), std::string::npos);
  EXPECT_NE(message(tensor(storage("0", 6), -1, {6}, {1})).find("no sizes"), std::string::npos);
  EXPECT_NE(message(tensor(storage("0", 6), 0, {6}, {1, 1})).find("differ in number"), std::string::npos);
  EXPECT_NE(message(tensor(storage("0", 6, "torch\nComplexStorage\n"), 0, {6}, {1})).find("torch.ComplexStorage"), std::string::npos);
}

TEST(TorchArchive, DamageIsNoticedEverywhere) {
  const std::string whole = archive_of(pickle_of("w", tensor(storage("0", 6), 0, {6}, {1})));
  ASSERT_EQ(refusal(whole), "");
  for (std::size_t length = 0; length < whole.size(); ++length) EXPECT_NE(refusal(whole.substr(0, length)), "") << length;
  std::string changed = whole;
  changed[changed.find("archive/data/0") + 16] ^= 1;
  EXPECT_NE(refusal(changed).find("checksum"), std::string::npos);
}

TEST(TorchArchive, OtherArchivesAreRefused) {
  const std::string pickle = pickle_of("w", tensor(storage("0", 6), 0, {6}, {1}));
  EXPECT_NE(refusal(zip_of({{"archive/data.pkl", pickle}}, 8)).find("compressed"), std::string::npos);
  EXPECT_NE(refusal(zip_of({{"archive/data.pkl", pickle}}, 0, 1)).find("encrypted"), std::string::npos);
  EXPECT_NE(refusal(zip_of({{"archive/data.pkl", pickle}, {"archive/data.pkl", pickle}})).find("twice"), std::string::npos);
  EXPECT_NE(refusal(zip_of({{"model.json", "{}"}})).find("data.pkl"), std::string::npos);
  EXPECT_NE(refusal(zip_of({{"archive/data.pkl", pickle}, {"archive/byteorder", "big"}})).find("byte order"), std::string::npos);
  EXPECT_NE(refusal("\x80\x02}.").find("torch.save"), std::string::npos);
}

std::string pickle_refusal(const std::string& pickle) {
  try {
    read_pickle(bytes_of(pickle), "some.pkl");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Pickle, OpcodesOutsideTheSubsetAreNamed) {
  EXPECT_NE(pickle_refusal("(i__main__\nThing\n.").find("0x69"), std::string::npos);
  EXPECT_NE(pickle_refusal("Pid\n.").find("0x50"), std::string::npos);
  EXPECT_NE(pickle_refusal(std::string("\x82\x01.", 3)).find("0x82"), std::string::npos);
}

TEST(Pickle, ContradictionsAreRefused) {
  for (const std::string& pickle : {std::string("."), std::string("K"), std::string("h\x01."), std::string("q\x05."), std::string("t."),
                                    std::string("N)R."), std::string("]NNs."), std::string("}Na."), std::string("NNb."), std::string("(0."),
                                    std::string("NQ."), std::string("N.N"), std::string("\x80\x09N."), std::string("cabc")})
    EXPECT_NE(pickle_refusal(pickle), "") << pickle;
}

TEST(Pickle, ValuesAreWhatTheyWere) {
  const std::string bytes =
      std::string("\x80\x02(K\x07M\x02\x01J\xfe\xff\xff\xff\x8a\x02\x00\xff\x8a\x00G\x3f\xf8\x00\x00\x00\x00\x00\x00\x88\x89N", 31) +
      text("word") + "t.";
  const Pickle pickle = read_pickle(bytes_of(bytes), "some.pkl");
  const PickleValue& root = pickle.at(pickle.root);
  ASSERT_EQ(root.items.size(), 10U);
  const auto item = [&](std::size_t i) -> const PickleValue& { return pickle.at(root.items[i]); };
  EXPECT_EQ(item(0).integer, 7);
  EXPECT_EQ(item(1).integer, 258);
  EXPECT_EQ(item(2).integer, -2);
  EXPECT_EQ(item(3).integer, -256);
  EXPECT_EQ(item(4).integer, 0);
  EXPECT_EQ(item(5).real, 1.5);
  EXPECT_EQ(item(6).integer, 1);
  EXPECT_EQ(item(7).kind, PickleValue::Kind::boolean);
  EXPECT_EQ(item(8).kind, PickleValue::Kind::none);
  EXPECT_EQ(item(9).text, "word");
}

}  // namespace
}  // namespace mmtune::io
