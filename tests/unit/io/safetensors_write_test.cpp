#include <string>
#include <vector>

#include "core/files.h"
#include "io/safetensors.h"
#include "support/support.h"
#include "unit/io/safetensors_bytes.h"

namespace mmtune::io {
namespace {

const std::string eight = "01234567";

TensorEntry entry(std::string name, DType dtype, std::vector<std::int64_t> shape, std::string_view data) {
  return {.name = std::move(name), .dtype = dtype, .shape = std::move(shape), .data = std::as_bytes(std::span(data))};
}

TEST(SafetensorsWrite, WhatIsWrittenIsRead) {
  const test::TempFolder folder;
  const std::vector<TensorEntry> tensors = {entry("z", DType::f32, {2, 1}, eight), entry("a", DType::i64, {}, eight),
                                            entry("none", DType::u8, {0, 3}, ""), entry("é\"\n", DType::f16, {4}, eight)};
  write_safetensors(folder / "m.safetensors", tensors, {{"format", "pt"}, {"recipe", "{\"a\": 1}\n"}});
  const SafetensorsFile file = SafetensorsFile::open(folder / "m.safetensors");
  ASSERT_EQ(file.tensors().size(), 4U);
  for (const TensorEntry& tensor : tensors) {
    const TensorEntry* read = file.find(tensor.name);
    ASSERT_NE(read, nullptr) << tensor.name;
    EXPECT_EQ(read->dtype, tensor.dtype);
    EXPECT_EQ(read->shape, tensor.shape);
    EXPECT_TRUE(std::ranges::equal(read->data, tensor.data));
  }
  EXPECT_EQ(file.tensors()[0].name, "z") << "the given order";
  EXPECT_EQ(file.metadata().at("recipe"), "{\"a\": 1}\n");
}

TEST(SafetensorsWrite, TheDataBeginsAtAMultipleOfEight) {
  const test::TempFolder folder;
  for (int length = 0; length < 9; ++length) {
    const std::vector<TensorEntry> tensors = {entry(std::string(static_cast<std::size_t>(length), 'n'), DType::u8, {8}, eight)};
    write_safetensors(folder / "m", tensors);
    EXPECT_EQ(read_file(folder / "m").size() % 8, 0U);
    EXPECT_NO_THROW(SafetensorsFile::open(folder / "m"));
  }
}

TEST(SafetensorsWrite, NothingIsAFileToo) {
  const test::TempFolder folder;
  write_safetensors(folder / "m", {});
  EXPECT_EQ(read_file(folder / "m"), test::safetensors_bytes("{}      "));
}

TEST(SafetensorsWrite, TheSameTensorsGiveTheSameBytes) {
  const test::TempFolder folder;
  const std::vector<TensorEntry> tensors = {entry("b", DType::u8, {8}, eight), entry("a", DType::u8, {8}, eight)};
  write_safetensors(folder / "1", tensors, {{"x", "y"}});
  write_safetensors(folder / "2", tensors, {{"x", "y"}});
  EXPECT_EQ(read_file(folder / "1"), read_file(folder / "2"));
}

TEST(SafetensorsWrite, MistakesLeaveNothingBehind) {
  const test::TempFolder folder;
  const auto refused = [&](const std::vector<TensorEntry>& tensors, const std::string& part,
                           const std::map<std::string, std::string>& metadata = {}) {
    EXPECT_ERROR(write_safetensors(folder / "m", tensors, metadata), part);
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  };
  refused({entry("a", DType::u8, {8}, eight), entry("a", DType::u8, {8}, eight)}, "two tensors are called 'a'");
  refused({entry("a", DType::f32, {8}, eight)}, "tensor 'a': its data does not match dtype and shape: expected 32 bytes, got 8");
  refused({entry("a", DType::u8, {-8}, eight)}, "a negative dimension");
  refused({entry("a", DType::u8, {std::int64_t{1} << 32, std::int64_t{1} << 32}, eight)}, "overflows");
  refused({entry("__metadata__", DType::u8, {8}, eight)}, "cannot be called '__metadata__'");
  refused({entry("\xff", DType::u8, {8}, eight)}, "not valid UTF-8");
  refused({}, "not valid UTF-8", {{"k", "\xff"}});
}

TEST(SafetensorsWrite, AFullDiskIsNamed) {
  EXPECT_ERROR(write_safetensors("/dev/full", std::vector<TensorEntry>{entry("a", DType::u8, {8}, eight)}),
               "/dev/full: cannot write: No space left on device");
}

}  // namespace
}  // namespace mmtune::io
