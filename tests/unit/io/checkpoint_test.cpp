#include "io/checkpoint.h"

#include "core/files.h"
#include "support/support.h"
#include "unit/io/safetensors_bytes.h"

namespace mmtune::io {
namespace {

namespace fs = std::filesystem;
using test::safetensors_bytes;
using test::TempFolder;

std::string one_byte_tensors(std::initializer_list<std::string_view> names) {
  std::string header = "{";
  std::size_t offset = 0;
  for (const auto name : names) {
    if (offset > 0) header += ",";
    header += "\"" + std::string(name) + "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[" + std::to_string(offset) + "," +
              std::to_string(offset + 1) + "]}";
    ++offset;
  }
  return safetensors_bytes(header + "}", std::string(offset, 'd'));
}

/// A model of two shards; `map` is the index's weight map.
void write_sharded(const TempFolder& folder, std::string_view map = R"({"a":"s1.safetensors","b":"s1.safetensors","c":"s2.safetensors"})") {
  folder.write("config.json", R"({"model_type":"bert"})");
  folder.write("s1.safetensors", one_byte_tensors({"b", "a"}));
  folder.write("s2.safetensors", one_byte_tensors({"c"}));
  folder.write("model.safetensors.index.json", R"({"metadata":{"total_size":3},"weight_map":)" + std::string(map) + "}");
}

TEST(Checkpoint, OfSeveralFilesTheLastCounts) {
  const TempFolder folder;
  folder.write("config.json", R"({"parts":[{"name":"one","path":"one.safetensors"},{"name":"two","path":"two.safetensors"}]})");
  folder.write("one.safetensors", one_byte_tensors({"a", "b"}));
  folder.write("two.safetensors", one_byte_tensors({"b", "c"}));
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  EXPECT_EQ(checkpoint.tensors().size(), 3U);
  ASSERT_EQ(checkpoint.files().size(), 2U);
  EXPECT_EQ(checkpoint.find("b"), &checkpoint.files()[1].tensors()[0]);
  EXPECT_EQ(checkpoint.mapping_of(*checkpoint.find("b")), checkpoint.files()[1].mapping());
}

TEST(Checkpoint, OneFile) {
  const TempFolder folder;
  folder.write("config.json", R"({"model_type":"bert"})");
  folder.write("model.safetensors", one_byte_tensors({"b", "a"}));
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  EXPECT_EQ(checkpoint.config()["model_type"], "bert");
  ASSERT_EQ(checkpoint.tensors().size(), 2U);
  EXPECT_EQ(checkpoint.tensors()[0]->name, "a");
  EXPECT_EQ(checkpoint.find("none"), nullptr);
  EXPECT_EQ(checkpoint.files().size(), 1U);
}

TEST(Checkpoint, Shards) {
  const TempFolder folder;
  write_sharded(folder);
  const Checkpoint original = Checkpoint::open(folder.path());
  const Checkpoint checkpoint = original;  // NOLINT(performance-unnecessary-copy-initialization): a copy keeps everything mapped
  ASSERT_EQ(checkpoint.tensors().size(), 3U);
  EXPECT_EQ(checkpoint.files().size(), 2U);
  const TensorEntry* c = checkpoint.find("c");
  ASSERT_NE(c, nullptr);
  EXPECT_EQ(checkpoint.mapping_of(*c)->path().filename(), "s2.safetensors");
}

TEST(Checkpoint, IndexAndShardsMustAgree) {
  const TempFolder folder;
  write_sharded(folder, R"({"a":"s1.safetensors","b":"s1.safetensors","c":"s2.safetensors","d":"s2.safetensors"})");
  EXPECT_ERROR(Checkpoint::open(folder.path()), "tensor 'd' is indexed, but not in its shard 's2.safetensors'");
  write_sharded(folder, R"({"a":"s1.safetensors","c":"s2.safetensors"})");
  EXPECT_ERROR(Checkpoint::open(folder.path()), "tensor 'b' is in the shard 's1.safetensors', but the index does not have it");
  write_sharded(folder, R"({"a":"s2.safetensors","b":"s1.safetensors","c":"s2.safetensors"})");
  EXPECT_ERROR(Checkpoint::open(folder.path()), "but the index says 's2.safetensors'");
  write_sharded(folder, R"({"a":"s1.safetensors","b":"s1.safetensors","c":"s3.safetensors"})");
  EXPECT_ERROR(Checkpoint::open(folder.path()), "the shard 's3.safetensors' is missing");
}

TEST(Checkpoint, ATensorInTwoShards) {
  const TempFolder folder;
  write_sharded(folder);
  folder.write("s2.safetensors", one_byte_tensors({"c", "a"}));
  EXPECT_ERROR(Checkpoint::open(folder.path()), "tensor 'a' is in another shard too");
}

TEST(Checkpoint, AnIndexStaysInItsFolder) {
  const TempFolder folder;
  for (const char* shard : {R"("../s1.safetensors")", R"("/etc/passwd")", R"("..")", R"("")", "1", "null", R"("s\u0000")"}) {
    write_sharded(folder, R"({"a":)" + std::string(shard) + "}");
    EXPECT_ERROR(Checkpoint::open(folder.path()), "does not name a file of the same folder");
  }
}

TEST(Checkpoint, ADamagedIndex) {
  const TempFolder folder;
  write_sharded(folder);
  for (const char* text : {"[]", "{}", R"({"weight_map":[]})"}) {
    folder.write("model.safetensors.index.json", text);
    EXPECT_ERROR(Checkpoint::open(folder.path()), "model.safetensors.index.json: no object 'weight_map'");
  }
  folder.write("model.safetensors.index.json", R"({"weight_map":{"a":"s1.safetensors","a":"s2.safetensors"}})");
  EXPECT_ERROR(Checkpoint::open(folder.path()), "the key 'a' is there twice");
}

TEST(Checkpoint, ADamagedShardIsNamed) {
  const TempFolder folder;
  write_sharded(folder);
  folder.write("s2.safetensors", one_byte_tensors({"c"}).substr(0, 20));
  EXPECT_ERROR(Checkpoint::open(folder.path()), "s2.safetensors: the file ends inside the header");
}

TEST(Checkpoint, FoldersThatAreNone) {
  const TempFolder folder;
  EXPECT_ERROR(Checkpoint::open(folder / "none"), "none: not a model folder");
  EXPECT_ERROR(Checkpoint::open(folder.path()), "no config.json");
  folder.write("config.json", "{}");
  EXPECT_ERROR(Checkpoint::open(folder.path()), "no weights: expected model.safetensors");
  folder.write("config.json", "[]");
  EXPECT_ERROR(Checkpoint::open(folder.path()), "config.json: not a JSON object");
}

TEST(Checkpoint, AFolderWithOnlyPicklesGetsTheLineThatConverts) {
  const TempFolder folder;
  folder.write("config.json", "{}");
  folder.write("training_args.bin", "PK");
  folder.write("pytorch_model.bin", "PK");
  const std::string message = test::error_of([&] { Checkpoint::open(folder.path()); });
  EXPECT_NE(message.find("pytorch_model.bin', map_location"), std::string::npos) << message;
  EXPECT_NE(message.find("weights_only=True"), std::string::npos) << message;
}

// --- fingerprints ---

class BackboneFingerprint : public testing::Test {
 protected:
  std::string of(const fs::path& folder) const { return backbone_fingerprint(Checkpoint::open(folder)); }

  TempFolder cache_;
  test::ScopedVariable variable_{"MMTUNE_CACHE", cache_.path().c_str()};
};

TEST_F(BackboneFingerprint, ShardingDoesNotMatter) {
  const TempFolder sharded, single;
  write_sharded(sharded);
  single.write("config.json", R"({"transformers_version":"5.0","model_type":"bert","_name_or_path":"x"})");
  single.write("model.safetensors", one_byte_tensors({"c", "b", "a"}));
  EXPECT_EQ(of(sharded.path()), of(single.path()));
}

TEST_F(BackboneFingerprint, EveryByteMatters) {
  const TempFolder one, two, three;
  const auto write = [](const TempFolder& folder, std::string_view config, const std::string& weights) {
    folder.write("config.json", config);
    folder.write("model.safetensors", weights);
  };
  std::string changed = one_byte_tensors({"a", "b"});
  changed.back() ^= 1;
  write(one, R"({"layers":1})", one_byte_tensors({"a", "b"}));
  write(two, R"({"layers":2})", one_byte_tensors({"a", "b"}));
  write(three, R"({"layers":1})", changed);
  EXPECT_NE(of(one.path()), of(two.path()));
  EXPECT_NE(of(one.path()), of(three.path()));
}

TEST_F(BackboneFingerprint, ARewrittenFileIsReadAgain) {
  const TempFolder folder;
  folder.write("config.json", "{}");
  folder.write("model.safetensors", one_byte_tensors({"a"}));
  const std::string first = of(folder.path());
  EXPECT_EQ(of(folder.path()), first);
  std::string changed = one_byte_tensors({"a"});
  changed.back() ^= 1;
  write_file_atomically(folder / "model.safetensors", changed);
  EXPECT_NE(of(folder.path()), first);
}

TEST_F(BackboneFingerprint, TheMemoryIsUsedAndADamagedOneIgnored) {
  const TempFolder folder;
  folder.write("config.json", "{}");
  folder.write("model.safetensors", one_byte_tensors({"a"}));
  const std::string first = of(folder.path());
  fs::path remembered;
  for (const auto& entry : fs::directory_iterator(cache_ / "fingerprints")) remembered = entry.path();
  ASSERT_EQ(read_file(remembered), first);
  const std::string other(32, 'a');
  write_file_atomically(remembered, other);
  EXPECT_EQ(of(folder.path()), other) << "not read again while the files are the same";
  write_file_atomically(remembered, "damaged");
  EXPECT_EQ(of(folder.path()), first);
}

TEST_F(BackboneFingerprint, WorksWhereTheCacheCannotBeWritten) {
  const test::ScopedVariable nowhere("MMTUNE_CACHE", "/proc/none");
  const TempFolder folder;
  folder.write("config.json", "{}");
  folder.write("model.safetensors", one_byte_tensors({"a"}));
  EXPECT_EQ(of(folder.path()).size(), 32U);
}

}  // namespace
}  // namespace mmtune::io
